"""Names of files and classes stay with the data."""

import os

import pytest
import torch
from made_files import BYTES, picture, wav

from pyro_vae.data import Classes, Data, Split, load_data
from pyro_vae.errors import InputError
from pyro_vae.plots.images import picked


def images(folder, count=20, start=0):
    """Images, named by the grey level that they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        (folder / f"{i}.png").write_bytes(picture(BYTES * 0 + i, "png"))


def check(split):
    """The name of an image says how grey it is."""
    assert [int(name.split("/")[-1].removesuffix(".png")) for name in split.names] == split.tensors["x"][
        :, 0, 0, 0
    ].tolist()


def test_files_and_classes(tmp_path):
    images(tmp_path / "dog", 10)
    images(tmp_path / "cat", 10, start=10)
    data = load_data(str(tmp_path))
    assert data.extra(Classes) == Classes(("cat", "dog"))
    for split in (data.train, data.validation, data.test):
        check(split)
        assert all(name.startswith(("cat", "dog")[y]) for name, y in zip(split.names, split.tensors["y"], strict=True))
    limited = load_data(str(tmp_path), limit=3).train
    assert limited.names == data.train.names[:3]
    check(limited)


@pytest.mark.parametrize("binarization", ["none", "dynamic"])
def test_every_part_of_a_split_keeps_them(tmp_path, binarization):
    images(tmp_path)
    whole = load_data(str(tmp_path)).train
    split = Split(whole.tensors, names=whole.names, binarization=binarization)
    index = torch.tensor([5, 2, 2])
    assert split.subset(3).names == whole.names[:3] and split.to("cpu").names == whole.names
    assert split.fixed(index).names == tuple(whole.names[i] for i in index)
    assert split.fixed().names == whole.names and len(picked(split, 4).names) == 4
    assert picked(split, 4).names == tuple(whole.names[i] for i in (0, 4, 8, 12))
    check(split.subset(4))
    variants = split.with_variants({"text": torch.zeros(16, 2, 3, dtype=torch.int64)})
    assert variants.names == variants.fixed().names == whole.names


def test_recordings(tmp_path):
    for name in ("b", "a"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.wav").write_bytes(wav(bytes(100)))
    data = load_data(str(tmp_path))
    assert data.train.names == ("train/a/1.wav", "train/b/1.wav") and data.extra(Classes) == Classes(("a", "b"))


def test_no_names_where_there_are_none(tmp_path):
    data = load_data("mnist5k", limit=10)
    assert (
        data.train.names is None and data.extra(Classes) is None and data.train.fixed(torch.tensor([1])).names is None
    )
    images(tmp_path)
    assert load_data(str(tmp_path)).extra(Classes) is None
    images(tmp_path / "classes" / "a")
    assert load_data(str(tmp_path / "classes"), observed_quadrants=1).extra(Classes) is None  # y is no label then


def test_names_that_are_no_text(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/photos\xff")
    images(tmp_path / folder / os.fsdecode(b"d\xf6g"), 1)
    data = load_data(folder)
    assert data.extra(Classes).names == ("d\\udcf6g",) and data.train.names == ("d\\udcf6g/0.png",)
    for text in (data.name, data.description, data.train.name, *data.extra(Classes).names):
        text.encode()  # can be printed and written


def test_refusals():
    x = torch.zeros(3, 2)
    with pytest.raises(InputError, match="2 names for 3 data"):
        Split({"x": x}, names=("a", "b"))
    with pytest.raises(InputError, match="y must be labels from 0 to 1"):
        Data(Split({"x": x, "y": torch.tensor([0, 1, 2])}), extras=(Classes(("a", "b")),))
