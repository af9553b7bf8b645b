"""Folders of images."""

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data import load_data
from pyro_vae.data.images import square
from pyro_vae.errors import CorruptFileError, InputError


def write(path, value, size=(4, 4), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    array = np.broadcast_to(np.asarray(value, np.uint8), shape)
    Image.fromarray(np.ascontiguousarray(array)).save(path, **options)


def test_flat_folder(tmp_path):
    for i in range(30):
        write(tmp_path / f"{i:02}.png", (i, 100, 200))
    (tmp_path / "readme.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    data = load_data(str(tmp_path))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [24, 3, 3]
    assert data.train.shape == (3, 4, 4) and data.train.keys == ("x",)
    x = torch.cat([split.tensors["x"] for split in (data.train, data.validation, data.test)])
    assert x.dtype == torch.uint8 and (x[:, 1] == 100).all() and (x[:, 2] == 200).all()
    assert x[:, 0, 0, 0].sort().values.tolist() == list(range(30))
    limited = load_data(str(tmp_path), limit=2)
    assert torch.equal(limited.train.tensors["x"], data.train.tensors["x"][:2]) and len(limited.test) == 2


def test_class_folders_and_grey(tmp_path):
    for i in range(10):
        write(tmp_path / "cat" / f"{i}.png", 10, mode="L")
        write(tmp_path / "ant" / f"{i}.PNG", 20, mode="L")
    data = load_data(str(tmp_path))
    assert data.train.shape == (1, 4, 4)
    for split in (data.train, data.validation, data.test):
        x, y = split.tensors["x"], split.tensors["y"]
        assert y.dtype == torch.int64
        assert torch.equal(x[:, 0, 0, 0], torch.where(y == 0, 20, 10).to(torch.uint8))  # ant 0, cat 1


def test_split_folders(tmp_path):
    for part, n in (("train", 3), ("test", 2)):
        for i in range(n):
            write(tmp_path / part / "b" / f"{i}.png", 1)
            write(tmp_path / part / "a" / f"{i}.png", 0)
    data = load_data(str(tmp_path))
    assert data.train.tensors["y"].tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.tensors["y"].tolist() == [0, 0, 1, 1] and data.validation is None
    assert data.test.tensors["x"][:, 0, 0, 0].tolist() == [0, 0, 1, 1]
    write(tmp_path / "test" / "c" / "0.png", 1)
    with pytest.raises(InputError, match=r"test/c: test must have the class folders of train \(a, b\)"):
        load_data(str(tmp_path))


def test_one_colour_image_makes_all_colour(tmp_path):
    write(tmp_path / "a.png", 7, mode="L")
    write(tmp_path / "b.png", (1, 2, 3))
    x = load_data(str(tmp_path)).train.tensors["x"]
    assert x.shape == (2, 3, 4, 4)
    assert sorted(image[:, 0, 0].tolist() for image in x) == [[1, 2, 3], [7, 7, 7]]


def test_transparency_is_laid_on_white_and_exif_turns(tmp_path):
    write(tmp_path / "clear" / "a.png", (9, 9, 9, 0), mode="RGBA")
    assert (load_data(str(tmp_path / "clear")).train.tensors["x"] == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    write(tmp_path / "turned" / "a.jpg", (9, 9, 9), size=(6, 4), exif=exif)
    assert load_data(str(tmp_path / "turned")).train.shape == (3, 6, 4)


def test_sizes(tmp_path):
    write(tmp_path / "a.png", 50, size=(8, 6), mode="L")
    write(tmp_path / "b.png", 50, size=(9, 6), mode="L")
    with pytest.raises(InputError, match="give image_size") as caught:
        load_data(str(tmp_path))
    assert "a.png" in str(caught.value) and "b.png" in str(caught.value) and "6 x 9" in str(caught.value)
    data = load_data(str(tmp_path), image_size=3)
    assert data.train.shape == (1, 3, 3) and (data.train.tensors["x"] == 50).all()


def test_square_takes_the_middle():
    x = torch.zeros(1, 1, 2, 6, dtype=torch.uint8)
    x[..., 2:4] = 80
    assert (square(x, 4) == 80).all() and square(x, 4).shape == (1, 1, 4, 4)
    assert (square(x.float().transpose(2, 3), 2) == 80).all()
    with pytest.raises(InputError, match="image_size is for images"):
        square(torch.zeros(3, 5), 4)
    with pytest.raises(InputError, match="binary"):
        square(x.bool(), 4)


def test_resized_images_stay_within_what_they_were():
    """By rounding alone white was above 1, which data in [0, 1] must not be."""
    for side in range(20, 60, 3):
        for size in (7, 16, 28, 45):
            resized = square(torch.cat([torch.ones(1, 1, side, side), torch.zeros(1, 1, side, side)]), size)
            assert resized.max() == 1 and resized.min() == 0, (side, size)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp"])
@pytest.mark.parametrize("keep", [0, 0.1, 0.6])
def test_truncated_image_is_named(tmp_path, suffix, keep):
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    for name in ("a", "b", "c"):
        Image.fromarray(noise).save(tmp_path / f"{name}{suffix}")
    path = tmp_path / f"b{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CorruptFileError, match="not a readable image") as caught:
        load_data(str(tmp_path))
    assert str(path) in str(caught.value)


def test_refused_layouts(tmp_path):
    with pytest.raises(InputError, match="no images in this folder"):
        load_data(str(tmp_path))
    write(tmp_path / "mixed" / "a.png", 1)
    write(tmp_path / "mixed" / "sub" / "b.png", 1)
    with pytest.raises(InputError, match="both images and sub-folders"):
        load_data(str(tmp_path / "mixed"))
    write(tmp_path / "val" / "train" / "a.png", 1)
    write(tmp_path / "val" / "val" / "b.png", 1)
    with pytest.raises(InputError, match="val/val: beside split folders"):
        load_data(str(tmp_path / "val"))
    write(tmp_path / "test" / "test" / "b.png", 1)
    with pytest.raises(InputError, match="no 'train'"):
        load_data(str(tmp_path / "test"))
    (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(InputError, match=r"empty/class: no images"):
        load_data(str(tmp_path / "empty"))
    (tmp_path / "deep").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep" / "a.tif")
    with pytest.raises(InputError, match=r"a.tif: pixel format 'I;16'"):
        load_data(str(tmp_path / "deep"))
