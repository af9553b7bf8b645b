"""Sound end to end: a folder of WAV files, a one-dimensional model of one's own, and WAV files out."""

import logging
import math
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pyro_vae.cli import main
from pyro_vae.data import load_data
from pyro_vae.data.wav import read_wav, write_wav
from pyro_vae.runs import Run

RATE, LENGTH = 8000, 512
MODULE = '''
"""A Gaussian VAE of signals, of plain modules."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, data_shape):
        super().__init__()
        self.shape = data_shape
        self.first = nn.Linear(4, 8 * data_shape[1] // 4)
        self.rest = nn.Sequential(nn.ELU(), nn.ConvTranspose1d(8, 1, 8, stride=4, padding=2))

    def forward(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            h = self.first(z).reshape(-1, 8, self.shape[1] // 4)
            mean = self.rest(h).reshape(*z.shape[:-1], *self.shape)
            return pyro.sample("x", dist.Normal(mean, 0.1).to_event(2), obs=x)


class Guide(nn.Module):
    def __init__(self, length=512):
        super().__init__()
        signal = nn.Conv1d(1, 8, 8, stride=4, padding=2)
        self.net = nn.Sequential(signal, nn.ELU(), nn.Flatten(), nn.Linear(2 * length, 8))

    def forward(self, x):
        mean, raw = self.net(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(mean, nn.functional.softplus(raw) + 1e-3).to_event(1))
'''
FIT = {"epochs": 30, "batch_size": 8, "device": "cpu", "learning_rate": 3e-3}


def tone(path, frequency, loudness=0.5, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    time = torch.arange(rate * LENGTH // RATE, dtype=torch.float64) / rate
    write_wav(path, loudness * torch.sin(2 * math.pi * frequency * time), rate)
    return path


def trained(folder, config):
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(folder / "mine.yaml"), "--trust", "--out", str(folder / "run")]) == 0
    return folder / "run"


def peak(wave):
    """The frequency that is loudest, in Hz."""
    return torch.fft.rfft(wave).abs().argmax().item() * RATE / len(wave)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model of tones of 250 and 1000 Hz; its data are then gone."""
    folder = tmp_path_factory.mktemp("sound")
    for i in range(20):
        tone(folder / "tones" / f"{i:02}.wav", 250 if i % 2 else 1000, loudness=0.3 + 0.02 * i)
    (folder / "tiny_sound.py").write_text(MODULE)
    data = {"name": str(folder / "tones")}
    return trained(
        folder, {"data": data, "model": "tiny_sound.Model", "guide": "tiny_sound.Guide", "fit": FIT | {"epochs": 60}}
    )


def test_the_run_knows_how_it_is_played(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["sound"] == {"sample_rate": RATE, "encoding": "linear", "normalized": False}
    assert config["data_shape"] == [1, LENGTH]


def test_data_through_the_latents_and_back(run, capsys):
    assert main(["reconstruct", str(run), "--trust", "--split", "train", "--num", "6"]) == 0
    printed = capsys.readouterr().out.split()
    assert printed == [str(run / p) for p in ("reconstructions.npz", "reconstructions", "figures/reconstruction.png")]
    arrays = np.load(run / "reconstructions.npz")
    chosen, names = (0, 2, 5, 8, 10, 13), Run(run, trust=True).data().train.names
    assert arrays["name"].tolist() == [names[i] for i in chosen] and names[0].endswith(".wav")  # the recordings' files
    assert arrays["x"].shape == arrays["x.mean"].shape == (6, 1, LENGTH)
    for i, x, mean in zip(chosen, arrays["x"], arrays["x.mean"], strict=True):
        (heard, rate), (data, _) = (read_wav(run / "reconstructions" / f"train-{i:02}{s}.wav") for s in ("", ".data"))
        assert rate == RATE and len(heard) == LENGTH
        torch.testing.assert_close(heard, torch.from_numpy(mean[0]).clamp(-1, 1), atol=2**-15, rtol=0)
        torch.testing.assert_close(data, torch.from_numpy(x[0]), atol=2**-15, rtol=0)
        assert peak(heard) == peak(data) and peak(data) in (250, 1000)
    with Image.open(run / "figures" / "reconstruction.png") as image:
        image.verify()


def test_files_of_ones_own_without_the_data(run, tmp_path, monkeypatch):
    kept = run.parent / "tones"
    low, high = tone(tmp_path / "a" / "x.wav", 250), tone(tmp_path / "b" / "x.wav", 1000, rate=44100)
    shutil.move(kept, tmp_path / "gone")  # how sound is played is in the run
    try:
        assert main(["reconstruct", str(run), str(low), str(high), "--trust"]) == 0
    finally:
        shutil.move(tmp_path / "gone", kept)
    assert np.load(run / "reconstructions.npz")["name"].tolist() == ["x", "x-2"]
    heard = [read_wav(run / "reconstructions" / f"{name}.wav") for name in ("x", "x-2")]
    assert [(peak(wave), rate, len(wave)) for wave, rate in heard] == [(250, RATE, LENGTH), (1000, RATE, LENGTH)]


def test_samples_are_written_and_older_ones_removed(run, capsys):
    assert main(["sample", str(run), "--trust", "--num", "11"]) == 0
    own = [run / "samples" / name for name in ("2024.wav", "\u0663.wav", "mine.wav")]
    for file in own:
        shutil.copy(run / "samples" / "000.wav", file)
    assert main(["sample", str(run), "--trust", "--num", "3"]) == 0
    assert all(file.is_file() for file in own)
    for file in own:
        file.unlink()
    assert capsys.readouterr().out.split()[-3:] == [
        str(run / p) for p in ("samples.npz", "samples", "figures/samples.png")
    ]
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["000.wav", "001.wav", "002.wav"]
    mean = torch.from_numpy(np.load(run / "samples.npz")["x.mean"])
    for i in range(3):
        wave, rate = read_wav(run / "samples" / f"{i:03}.wav")
        assert rate == RATE
        torch.testing.assert_close(wave, mean[i, 0].clamp(-1, 1), atol=2**-15, rtol=0)
    with Image.open(run / "figures" / "samples.png") as image:
        image.verify()


def test_mu_law_levels_under_a_categorical_likelihood(tmp_path, capsys):
    for i in range(10):
        tone(tmp_path / "tones" / f"{i}.wav", 250, loudness=0.5)
    likelihood = {"class_path": "pyro_vae.likelihoods.Categorical", "init_args": {"num_levels": 256}}
    model = {
        "class_path": "pyro_vae.models.VAE",
        "init_args": {"latent_dim": 2, "hidden_dims": [8], "likelihood": likelihood},
    }
    guide = {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [8]}}
    data = {"name": str(tmp_path / "tones"), "length": 64, "encoding": "mu_law"}
    fit = FIT | {"learning_rate": 1e-2, "epochs": 60}
    run = trained(tmp_path, {"data": data, "model": model, "guide": guide, "fit": fit})
    assert main(["reconstruct", str(run), "--num", "1"]) == 0
    arrays = np.load(run / "reconstructions.npz")
    assert np.allclose(arrays["x"] * 255, np.round(arrays["x"] * 255), atol=1e-4)  # levels
    original = load_data(str(tmp_path / "tones")).test.tensors["x"][0, 0, :64]
    data, heard = (read_wav(run / "reconstructions" / f"test-0{s}.wav")[0] for s in (".data", ""))
    assert (data - original).abs().max() < 0.011  # half a level at 0.5 of full scale
    assert (heard - original).square().mean() < 0.1 * original.square().mean()
    capsys.readouterr()
    assert main(["evaluate", str(run), "--particles", "5"]) == 0
    assert "bits per dimension" in capsys.readouterr().out


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main(["reconstruct", *map(str, arguments)]) in (1, 2)
    return capsys.readouterr().err


def test_refusals(run, tmp_path, capsys):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    wave = tone(tmp_path / "a.wav", 250)
    assert "a.png: the data are WAV files" in refused(capsys, run, tmp_path / "a.png", "--trust")
    assert "b.wav: no such file" in refused(capsys, run, tmp_path / "b.wav", "--trust")
    assert "leave them out where files are given" in refused(capsys, run, wave, "--num", "3", "--trust")
    assert "leave them out where files are given" in refused(capsys, run, wave, "--split", "test", "--trust")
    assert "--num must be a positive integer, got 0" in refused(capsys, run, "--num", "0", "--trust")
    assert "--y is not for this model: it is not conditional" in refused(capsys, run, "--y", "1", "--trust")
    assert "unknown option --splt. Did you mean --split?" in refused(capsys, run, "--splt", "test")
    wave.write_bytes(wave.read_bytes()[:300])
    assert "a.wav: ends before" in refused(capsys, run, wave, "--trust")


def test_a_loud_model_is_clipped_and_that_is_said(run, tmp_path, caplog, monkeypatch):
    quiet = tone(tmp_path / "loud.wav", 250, loudness=1.0)
    monkeypatch.setattr("pyro_vae.evaluation.generate.reconstruct", lambda *a, **k: torch.full((1, 1, LENGTH), 1.5))
    with caplog.at_level(logging.INFO):
        assert main(["reconstruct", str(run), str(quiet), "--trust"]) == 0
    assert "1 of 2 recordings clipped at full scale: loud.wav (512 samples)" in caplog.text


def test_a_damaged_description_of_the_sound(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    for damage in ({"rate": 8000}, {"sample_rate": "fast"}, {"sample_rate": 8000, "encoding": "mp3"}, 5):
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config | {"sound": damage}))
        assert "'sound'" in refused(capsys, tmp_path / "run", "--trust")


def test_from_one_tone_to_another(run, capsys):
    for steps in (6, 4):  # the second has no files of the first
        assert main(["interpolate", str(run), "train:0", "train:1", "--trust", "--steps", str(steps)]) == 0
    printed = capsys.readouterr().out.split()[-3:]
    assert printed == [str(run / p) for p in ("interpolation.npz", "interpolation", "figures/interpolation.png")]
    names = ["00-datum", "01-0", "02-0.333", "03-0.667", "04-1", "05-datum"]
    assert sorted(path.name for path in (run / "interpolation").iterdir()) == [f"{name}.wav" for name in names]
    waves = [read_wav(run / "interpolation" / f"{name}.wav")[0] for name in names]
    assert peak(waves[0]) == peak(waves[1]) != peak(waves[4]) == peak(waves[5])
