"""Files that are made like a run's data."""

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.cli.inputs import read_files
from pyro_vae.data import Sound, load_data
from pyro_vae.data.wav import write_wav
from pyro_vae.errors import InputError


def picture(path, size, mode="L"):
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    Image.fromarray(np.random.RandomState(1).randint(0, 256, shape).astype(np.uint8)).save(path)
    return path


def test_a_file_of_a_folder_becomes_what_it_was_there(tmp_path):
    for i in range(10):
        picture(tmp_path / f"{i}.png", (9, 12), mode="RGB")
    data = load_data(str(tmp_path), image_size=8)
    mine = read_files([tmp_path / "3.png"], data.train.shape, image_size=8)
    assert any(torch.equal(mine.tensors["x"][0], x) for x in data.train.tensors["x"])
    assert mine.batch(slice(None))["x"].dtype == torch.float32


def test_a_recording_of_a_folder_becomes_what_it_was_there(tmp_path):
    for i in range(10):
        write_wav(tmp_path / f"{i}.wav", torch.sin(torch.arange(1000.0) * (i + 1) / 20), 16000)
    for encoding in ("linear", "mu_law"):
        data = load_data(str(tmp_path), sample_rate=8000, length=512, encoding=encoding)
        files = sorted(tmp_path.glob("*.wav"))
        mine = read_files(files, (1, 512), sound=data.extra(Sound)).tensors["x"]
        theirs = torch.cat([part.tensors["x"] for part in (data.train, data.validation, data.test)])
        order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
        assert mine.dtype == theirs.dtype and torch.equal(mine[order], theirs)


def test_binarization_and_observed_parts(tmp_path):
    path = picture(tmp_path / "a.png", (6, 6))
    grey = read_files([path], (1, 6, 6)).batch(slice(None))["x"]
    for how in ("threshold", "static", "dynamic"):
        x = read_files([path] * 400, (1, 6, 6), binarization=how, binarization_seed=3).batch(slice(None))["x"]
        assert ((x == 0) | (x == 1)).all()
        if how == "threshold":
            assert torch.equal(x[:1], (grey >= 0.5).float())
        else:
            assert (x.mean(0) - grey[0]).abs().max() < 0.13  # five standard errors of 400 draws
    batch = read_files([path], (1, 6, 6), observed_quadrants=2).batch(slice(None))
    assert torch.equal(batch["y"][..., :3], grey[..., :3]) and (batch["y"][..., 3:] == 0).all()


def test_refusals_name_the_file(tmp_path):
    image, sound = picture(tmp_path / "a.png", (5, 4)), tmp_path / "b.wav"
    write_wav(sound, torch.zeros(100), 8000)
    with pytest.raises(InputError, match=r"a\.png: is 4 x 5 pixels .* but the data are 28 x 28"):
        read_files([image], (1, 28, 28))
    with pytest.raises(InputError, match=r"b\.wav: the data are images; give files of these kinds: \.png"):
        read_files([image, sound], (1, 4, 5))
    with pytest.raises(InputError, match=r"a\.png: the data are WAV files"):
        read_files([image], (1, 100), sound=Sound(8000))
    with pytest.raises(InputError, match=r"c\.wav: no such file"):
        read_files([tmp_path / "c.wav"], (1, 100), sound=Sound(8000))
    for shape in ((8,), (1, 100), (5, 4, 4)):
        with pytest.raises(InputError, match="neither images nor sound"):
            read_files([image], shape)
