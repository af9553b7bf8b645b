"""Folders of WAV files, and what is said of sound."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data import Data, Sound, Split, load_data
from pyro_vae.data.wav import write_wav
from pyro_vae.errors import CorruptFileError, InputError


def tone(path, frequency, *, rate=8000, seconds=0.1, loudness=0.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    write_wav(path, loudness * torch.sin(2 * math.pi * frequency * time), rate)


def test_flat_folder_of_one_rate_and_length(tmp_path):
    for i in range(10):
        tone(tmp_path / f"{i}.wav", 100 * (i + 1), loudness=0.05 * (i + 1))
    (tmp_path / "readme.txt").write_text("no sound")
    data = load_data(str(tmp_path))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 1, 1]
    assert data.train.shape == (1, 800) and data.train.keys == ("x",)
    assert data.extra(Sound) == Sound(8000, "linear", normalized=False)
    x = torch.cat([split.tensors["x"][:, 0] for split in (data.train, data.validation, data.test)])
    loudest = x.abs().amax(1).sort().values
    torch.testing.assert_close(loudest, 0.05 * torch.arange(1.0, 11), rtol=0.06, atol=0)  # as loud as in the files
    limited = load_data(str(tmp_path), limit=2)
    assert torch.equal(limited.train.tensors["x"], data.train.tensors["x"][:2])


def test_classes_rates_and_lengths(tmp_path):
    for part, count in (("train", 3), ("test", 1)):
        for i in range(count):
            tone(tmp_path / part / "low" / f"{i}.wav", 200, rate=44100, seconds=0.05)
            tone(tmp_path / part / "high" / f"{i}.WAV", 1000, rate=16000, seconds=0.2)
    with pytest.raises(InputError, match=r"44,100 samples a second, but .* has 16,000; give sample_rate"):
        load_data(str(tmp_path))
    with pytest.raises(InputError, match=r"400 samples at 8,000 Hz, but .* has 1,600; give length"):
        load_data(str(tmp_path), sample_rate=8000)
    data = load_data(str(tmp_path), sample_rate=8000, length=1024)
    assert data.train.tensors["y"].tolist() == [0, 0, 0, 1, 1, 1] and data.validation is None
    time = torch.arange(1024) / 8000
    for x, y in zip(data.train.tensors["x"][:, 0], data.train.tensors["y"], strict=True):
        expected = 0.5 * torch.sin(2 * math.pi * (200 if y else 1000) * time)
        heard = 400 if y else 1024
        torch.testing.assert_close(x[100 : heard - 100], expected[100 : heard - 100], rtol=0, atol=1e-3)
        assert (x[heard + 100 :] == 0).all()  # padded at the end; the others are cut there
    levels = load_data(str(tmp_path), sample_rate=8000, length=1024, encoding="mu_law")
    assert levels.train.tensors["x"].dtype == torch.uint8 and levels.extra(Sound).encoding == "mu_law"
    back = levels.extra(Sound).decode(levels.train.batch(slice(None))["x"])
    assert (back - data.train.tensors["x"]).abs().max() < 0.012  # half a step at 0.5 of full scale: 0.0109


def test_one_class_folder_of_each_kind_is_refused(tmp_path):
    tone(tmp_path / "a" / "a.wav", 100)
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match=r"b: no WAV files in this class folder \(.wav"):
        load_data(str(tmp_path))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "b" / "b.png")
    with pytest.raises(InputError, match=r"b\.png: the dataset is of WAV files; images cannot be among them"):
        load_data(str(tmp_path))


def test_damaged_and_short_files_are_named(tmp_path):
    tone(tmp_path / "a.wav", 100)
    tone(tmp_path / "b.wav", 100, seconds=0.001)
    with pytest.raises(InputError, match=r"b\.wav: too short, 8 samples at 8,000 Hz"):
        load_data(str(tmp_path), length=800)
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:1000])
    with pytest.raises(CorruptFileError, match=r"b\.wav: ends before the 800 samples"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 28}, "image_size is not for these data, which are sound"),
        ({"binarization": "static"}, "binarization is not for these data, which are sound"),
        ({"observed_quadrants": 1}, "observed_quadrants is not for these data"),
        ({"sample_rate": 0}, "sample_rate must be a positive integer, got 0"),
        ({"length": 2.5}, "length must be a positive integer, got 2.5"),
        ({"encoding": "mulaw"}, "unknown encoding 'mulaw'. Did you mean 'mu_law'?"),
    ],
)
def test_refusals(options, message, tmp_path):
    tone(tmp_path / "a.wav", 100)
    with pytest.raises(InputError) as caught:
        load_data(str(tmp_path), **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("options", [{"sample_rate": 8000}, {"length": 100}, {"encoding": "mu_law"}])
def test_options_of_sound_for_images(options):
    with pytest.raises(InputError, match="is not for these data, which have no options of their own; leave it out"):
        load_data("mnist5k", **options)


def test_sound_has_one_channel():
    with pytest.raises(InputError, match=r"sound has shape \(1, length\), but one x has shape \(2, 9\)"):
        Data(Split({"x": torch.zeros(3, 2, 9)}), extras=(Sound(8000),))
    with pytest.raises(InputError, match="sample_rate must be a positive integer"):
        Sound(0)


def test_a_normalized_recording():
    wave = 0.01 * torch.sin(torch.arange(1000.0)) + 0.001
    sound = Sound(8000, normalized=True)
    prepared = sound.prepare(wave, 8000, 1200)
    torch.testing.assert_close(prepared[:1000], wave * 0.9 / wave.abs().max())
    assert (prepared[1000:] == 0).all()
    assert torch.equal(sound.prepare(torch.zeros(1000), 8000, 1000), torch.zeros(1000))
