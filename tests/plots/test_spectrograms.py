"""Sound as pictures, and signals of one channel as curves."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from pyro_vae import plots as figures
from pyro_vae.data import Data, Sound, Split
from pyro_vae.evaluation.generate import reconstruct
from pyro_vae.plots import registry
from pyro_vae.plots.images import draw_curve
from pyro_vae.plots.spectrogram import sound_grid, spectrogram
from pyro_vae.programs.program import as_programs

RATE, LENGTH = 8000, 2048


def sines(n=12):
    frequencies = torch.arange(1, n + 1)[:, None] * 250.0
    return torch.sin(2 * math.pi * frequencies * torch.arange(LENGTH) / RATE).unsqueeze(1)  # (n, 1, L)


def model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        wave = z.sum(-1)[..., None, None] * sines(1)[0]
        return pyro.sample("x", dist.Normal(wave, 0.1).to_event(2), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        mean = x.square().mean((-2, -1))
        pyro.sample("z", dist.Normal(mean.unsqueeze(-1).expand(-1, 2), 0.1).to_event(1))


@pytest.mark.parametrize("loudness", [1.0, 0.1])
def test_a_sine_is_a_line_at_its_frequency_and_loudness(loudness):
    found = spectrogram(loudness * sines(), RATE)  # windows of 256, frequencies 31.25 Hz apart
    assert found.shape == (12, 1, 129, LENGTH // 64 + 1)
    inner = found[:, 0, :, 4:-4]
    assert torch.equal(inner.argmax(1), (8 * torch.arange(1, 13))[:, None].expand(-1, inner.shape[-1]))
    torch.testing.assert_close(
        inner.amax(1), torch.full_like(inner[:, 0], 20 * math.log10(loudness)), atol=0.02, rtol=0
    )
    assert spectrogram(torch.zeros(1, LENGTH), RATE).unique().tolist() == [-80]
    assert spectrogram(torch.zeros(1, 20), 100).shape[-2] == 9  # however short


def test_the_figure_shows_data_above_reconstructions():
    split = Split({"x": sines()}, name="toy test")
    figure = figures.spectrograms(model, guide, split, Sound(RATE), n=4, seed=1)
    panels = figure.axes[:8]
    shown = torch.stack([torch.as_tensor(axes.images[0].get_array()) for axes in panels]).unflatten(0, (2, 4))
    x = split.batch(torch.tensor([0, 3, 6, 9]))
    torch.testing.assert_close(shown[0], spectrogram(x["x"].squeeze(1), RATE))
    mean = reconstruct(model, guide, x, seed=1)
    torch.testing.assert_close(shown[1], spectrogram(mean.squeeze(1), RATE))
    assert [axes.get_ylabel() for axes in (panels[0], panels[4])] == ["data", "reconstruction"]
    assert panels[0].images[0].get_extent() == [0, LENGTH / RATE, 0, 4]  # seconds, kHz


def test_levels_are_drawn_as_the_sound_that_they_are():
    sound = Sound(RATE, "mu_law")
    levels = sound.encode(0.5 * sines(3)).float() / 255
    figure = sound_grid(levels, sound, "three", columns=2)
    drawn = [axes.images[0].get_array() for axes in figure.axes[:4] if axes.images]
    assert len(drawn) == 3 and not figure.axes[3].axison  # the fourth place is empty
    assert abs(drawn[2].max() - 20 * math.log10(0.5)) < 0.1


def test_signals_of_one_channel_are_curves(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_vae.plots.prior.NUM_PRIOR_SAMPLES", 4)  # a panel takes a while
    monkeypatch.setattr("pyro_vae.plots.prior.NUM_SCALED_SAMPLES", 2)
    split = Split({"x": sines(3)}, name="toy")
    data = Data(split, extras=(Sound(RATE),))
    written = {path.stem: path for path in figures.draw_all(model, guide, data, [], tmp_path)}
    assert written.keys() >= {"spectrograms", "reconstructions", "prior_samples", "scaled_samples", "interpolations"}
    for path in written.values():
        with Image.open(path) as image:
            assert max(image.size) < 2500 and len(set(image.convert("L").tobytes())) > 5
    with pytest.raises(figures.NotApplicable, match="the data are not sound"):
        registry.figures()["spectrograms"].draw(figures.Shown(*as_programs(model, guide), split))


@pytest.mark.parametrize("shape", [(20,), (1, 20), (1, 200)])
def test_short_curves_are_lines(shape):
    axes = Figure().subplots()
    values = torch.randn(shape)
    draw_curve(axes, values, color="C3")
    (line,) = axes.lines
    assert line.get_ydata().tolist() == values.flatten().tolist()
    assert line.get_marker() == ("." if shape[-1] < 30 else "None")


def test_long_curves_are_bands_with_the_same_extremes():
    axes = Figure().subplots()
    values = torch.randn(1, 3456)
    draw_curve(axes, values, label="data", linewidth=1)
    (band,) = axes.collections
    vertices = torch.as_tensor(band.get_paths()[0].vertices)
    assert not axes.lines and band.get_label() == "data"
    for start in (0, 450, 3447):  # bands of nine neighbours
        of_band = vertices[vertices[:, 0] == start, 1]
        expected = values[0, start : start + 9]
        assert of_band.max().item() == pytest.approx(expected.max().item())
        assert of_band.min().item() == pytest.approx(expected.min().item())
