"""Pairs of data and pictures by name: in arrays, in folders, of generators."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data import Classes, RawData, Split, load_data, registry, source
from pyro_vae.errors import CorruptFileError, InputError

N = 20


def levels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def loaded(path, **arrays):
    np.savez(path / "pairs.npz", **arrays)
    return load_data(str(path / "pairs.npz"))


def batch(split):
    return split.batch(slice(None))


def by_row(split, x):
    """Which datum of the arrays each of a split is, by its x."""
    found = batch(split)["x"].flatten(1)
    return [int((x.flatten(1) - row).abs().sum(1).argmin()) for row in found]


# ---------------------------------------------------------------------------- arrays
def test_pictures_beside_x_are_levels_and_other_integers_are_integers(tmp_path):
    image, frames, actions = levels(N, 4, 6, 3), levels(N, 2, 3, 4, 6, seed=1), levels(N, 5) % 4
    x = np.random.default_rng(0).normal(size=(N, 7)).astype(np.float32)
    data = loaded(tmp_path, x=x, image=image, frames=frames, actions=actions)
    rows = by_row(data.train, torch.from_numpy(x))
    found = batch(data.train)
    assert data.train.shapes == {"x": (7,), "image": (3, 4, 6), "frames": (2, 3, 4, 6), "actions": (5,)}
    assert torch.allclose(found["image"], torch.from_numpy(image).movedim(-1, 1)[rows].float() / 255)
    assert torch.allclose(found["frames"], torch.from_numpy(frames)[rows].float() / 255)
    assert found["actions"].dtype == torch.int64
    assert torch.equal(found["actions"], torch.from_numpy(actions)[rows].long())
    assert data.train.columns["image"].dtype == torch.uint8  # small while they are stored


def test_channels_of_pictures_are_found_and_the_log_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    x = np.zeros((N, 7), np.float32)
    shapes = {
        (N, 4, 6): (1, 4, 6),
        (N, 4, 6, 1): (1, 4, 6),
        (N, 3, 4, 6): (3, 4, 6),
        (N, 3, 4, 3): (3, 4, 3),  # channels first, where both could be
    }
    for given, expected in shapes.items():
        assert loaded(tmp_path, x=x, image=levels(*given)).train.shapes["image"] == expected
    assert "read as grey pictures" in caplog.text and "channels last" in caplog.text
    clips = {(N, 2, 4, 6): (2, 1, 4, 6), (N, 2, 4, 6, 3): (2, 3, 4, 6), (N, 2, 3, 4, 6): (2, 3, 4, 6)}
    for given, expected in clips.items():
        assert loaded(tmp_path, x=x, frames=levels(*given)).train.shapes["frames"] == expected


def test_x_may_be_clips(tmp_path):
    first, last = levels(N, 2, 3, 4, 6), levels(N, 2, 4, 6, 3)
    assert loaded(tmp_path, x=first).train.shape == loaded(tmp_path, x=last).train.shape == (2, 3, 4, 6)
    with pytest.raises(InputError, match="clips"):
        loaded(tmp_path, x=levels(N, 1, 2, 3, 4, 6))


def test_parts_keep_their_pictures(tmp_path):
    arrays = {}
    for place, part in enumerate(("train", "validation", "test")):
        arrays |= {f"x_{part}": levels(N, 1, 4, 4, seed=place), f"image_{part}": levels(N, 4, 4, 3, seed=9 + place)}
    data = loaded(tmp_path, **arrays)
    for part, split in data.splits.items():
        expected = torch.from_numpy(arrays[f"image_{part}"]).movedim(-1, 1).float() / 255
        assert torch.allclose(batch(split)["image"], expected)


def test_a_size_is_of_all_pictures(tmp_path):
    np.savez(tmp_path / "pairs.npz", x=levels(N, 1, 6, 9), image=levels(N, 3, 6, 9), frames=levels(N, 2, 3, 6, 9))
    data = load_data(str(tmp_path / "pairs.npz"), image_size=3)
    assert data.train.shapes == {"x": (1, 3, 3), "image": (3, 3, 3), "frames": (2, 3, 3, 3)}


def test_a_split_of_arrays_has_the_same_rules():
    split = Split({"x": levels(N, 1, 4, 4), "image": levels(N, 3, 4, 4), "y": levels(N)})
    found = batch(split)
    assert found["image"].dtype == torch.float32 and found["image"].max() <= 1 and found["y"].dtype == torch.int64
    assert found["image"].equal(split.fixed(torch.arange(N)).batch(slice(None))["image"])
    binary = Split({"x": levels(N, 1, 4, 4), "image": levels(N, 1, 4, 4) > 99})
    assert set(batch(binary)["image"].unique().tolist()) == {0.0, 1.0}


class Items(torch.utils.data.Dataset):
    def __init__(self, x, image):
        self.x, self.image = x, image

    def __len__(self):
        return len(self.x)

    def __getitem__(self, place):
        return {"x": self.x[place], "image": self.image[place]}


def test_so_do_streams_and_mapped_arrays(tmp_path):
    x, image = levels(N, 1, 4, 4), levels(N, 3, 4, 4)
    np.save(tmp_path / "image.npy", image)
    mapped = Split({"x": x, "image": np.load(tmp_path / "image.npy", mmap_mode="r")})
    for split in (mapped, Split(Items(x, image))):
        assert torch.allclose(split.batch(slice(3, 9))["image"], torch.from_numpy(image[3:9]).float() / 255)


# ---------------------------------------------------------------------------- folders
def folders(path, names=("a", "b", "c"), sides=(4, 6)):
    for which, kind in ((0, "x"), (1, "image")):
        (path / kind).mkdir(parents=True)
        for place, name in enumerate(names):
            shape = sides if kind == "image" else (*sides, 3)
            Image.fromarray(levels(*shape, seed=10 * which + place)).save(path / kind / f"{name}.png")
    return path


def test_folders_of_pairs(tmp_path):
    folders(tmp_path, [f"{i:02}" for i in range(N)])
    data = load_data(str(tmp_path))
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 16, "validation": 2, "test": 2}
    assert data.train.shapes == {"x": (3, 4, 6), "image": (1, 4, 6)} and data.extra(Classes) is None
    for split in data.splits.values():
        for place, name in enumerate(split.names):
            seed = int(name[2:4])
            x, image = levels(4, 6, 3, seed=seed), levels(4, 6, seed=10 + seed)
            assert name == f"x/{seed:02}.png"
            assert torch.equal(split.tensors["x"][place], torch.from_numpy(x).movedim(-1, 0))
            assert torch.equal(split.tensors["image"][place, 0], torch.from_numpy(image))


def test_folders_of_pairs_in_parts(tmp_path):
    folders(tmp_path / "train")
    folders(tmp_path / "test", ("d", "e"))
    data = load_data(str(tmp_path), image_size=2, limit=2)
    assert data.train.names == ("train/x/a.png", "train/x/b.png") and data.test.shapes["image"] == (1, 2, 2)


def test_pairs_that_are_none_are_refused(tmp_path):
    folders(tmp_path)
    (tmp_path / "x" / "c.png").rename(tmp_path / "x" / "d.png")
    with pytest.raises(InputError, match=r"x/d.png: has no partner .*image/d.png"):
        load_data(str(tmp_path))
    (tmp_path / "x" / "d.png").unlink()
    with pytest.raises(InputError, match=r"image/c.png: has no partner .*x/c.png"):
        load_data(str(tmp_path))
    (tmp_path / "image" / "c.png").rename(tmp_path / "image" / "b.bmp")
    with pytest.raises(InputError, match="has the same name"):
        load_data(str(tmp_path))
    (tmp_path / "image" / "b.bmp").unlink()
    (tmp_path / "image" / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(CorruptFileError, match=r"image/a.png"):
        load_data(str(tmp_path))
    (tmp_path / "test").mkdir()
    with pytest.raises(InputError, match="train"):
        load_data(str(tmp_path))


# ---------------------------------------------------------------------------- generators
def test_a_generator_gives_any_entries(monkeypatch):
    monkeypatch.setattr(registry, "_sources", {each.name: each for each in registry.sources()})

    @source("test-pairs", "made for a test")
    def made(*, size: int = 4) -> RawData:
        """Pairs of a generator.

        Args:
            size: of a side.
        """
        tensors = {"x": torch.rand(N, 2, size, size), "image": torch.rand(N, 1, size, size), "actions": torch.arange(N)}
        return RawData({"train": tensors, "test": {name: value[:3] for name, value in tensors.items()}})

    data = load_data("test-pairs", size=5)
    assert data.test.shapes == {"x": (2, 5, 5), "image": (1, 5, 5), "actions": ()}
