"""Folders of images with captions."""

import json
import logging

import pytest
import torch
from PIL import Image

from pyro_vae.data import Data, Split, load_data
from pyro_vae.errors import CorruptFileError, InputError


def images(folder, count, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / f"{i:02}.png")


def lines(start, count):
    return "".join(f"{i:02}.png\tred {i}\n" for i in range(start, start + count))


def check(data):
    """The caption of an image says how red it is."""
    for split in data.splits.values():
        x = split.tensors["x"]
        assert split.captions == tuple(f"red {int(red)}" for red in x[:, 0, 0, 0])


@pytest.mark.parametrize("name", ["captions.txt", "captions.tsv"])
def test_beside_the_images(tmp_path, name):
    images(tmp_path, 20)
    (tmp_path / name).write_text(lines(0, 20) + "\n")
    data = load_data(str(tmp_path))
    assert [len(split.captions) for split in data.splits.values()] == [16, 2, 2]
    check(data)
    check(load_data(str(tmp_path), limit=3))


def test_above_classes_as_json(tmp_path):
    images(tmp_path / "a", 6)
    images(tmp_path / "b", 5, start=6)
    told = {f"{'a' if i < 6 else 'b'}/{i:02}.png": f" red {i} " for i in range(11)}
    (tmp_path / "captions.json").write_text(json.dumps(told))
    data = load_data(str(tmp_path))
    check(data)
    assert data.train.keys == ("x", "y")


def test_in_split_folders(tmp_path):
    images(tmp_path / "train", 3)
    images(tmp_path / "test", 2, start=3)
    (tmp_path / "train" / "captions.txt").write_text(lines(0, 3))
    (tmp_path / "test" / "captions.tsv").write_text(lines(3, 2))
    data = load_data(str(tmp_path))
    assert data.splits.keys() == {"train", "test"}
    assert data.train.captions == ("red 0", "red 1", "red 2") and data.test.captions == ("red 3", "red 4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines(0, 2), "02.png has no caption in .*captions.txt, and 0 other images"),
        (lines(0, 3) + "01.png\tagain\n", "'01.png' has a caption already"),
        (lines(0, 4), "there is no image '03.png'"),
        (lines(0, 2) + "02.png red\n", "line 3: '02.png red' has no tab"),
        (lines(0, 2) + "02.png\t \n", "caption of '02.png' is empty"),
    ],
)
def test_bad_captions(tmp_path, text, message):
    images(tmp_path, 3)
    (tmp_path / "captions.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        load_data(str(tmp_path))


def test_bad_files(tmp_path):
    images(tmp_path, 3)
    file = tmp_path / "captions.json"
    for content, message in {b"{": "UTF-8 and JSON", b"\xff": "must be UTF-8", b'["a"]': "one object of names"}.items():
        file.write_bytes(content)
        with pytest.raises(InputError if content[:1] == b"[" else CorruptFileError, match=message):
            load_data(str(tmp_path))
    (tmp_path / "captions.txt").write_text(lines(0, 3))
    with pytest.raises(InputError, match=r"both captions.txt and captions.json"):
        load_data(str(tmp_path))


def test_one_caption_a_datum():
    x = torch.zeros(3, 2)
    with pytest.raises(InputError, match="own: 2 captions for 3 data; there must be one a datum"):
        Split({"x": x}, captions=("a", "b"), name="own")
    with_, without = Split({"x": x}, captions=("a", "b", "c")), Split({"x": x})
    with pytest.raises(InputError, match="train has captions and test has none"):
        Data(with_, test=without)
    with pytest.raises(InputError, match="validation has captions and train has none"):
        Data(without, with_)


def test_captions_stay_with_the_data():
    split = Split({"x": torch.arange(6.0).reshape(3, 2)}, captions=("a", "b", "c"))
    index = torch.tensor([2, 0, 2])
    assert split.fixed(index).captions == ("c", "a", "c") and split.fixed().captions == split.captions
    assert split.subset(2).captions == ("a", "b") and split.subset(9).captions == ("a", "b", "c")


def beside(folder, count):
    for i in range(count):
        (folder / f"{i:02}.txt").write_text(f"red\n{i}\n")


def test_text_files_beside_every_image(tmp_path, caplog):
    images(tmp_path, 20)
    beside(tmp_path, 20)
    check(load_data(str(tmp_path)))
    check(load_data(str(tmp_path), limit=3))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "07.txt").unlink(), "1 images have none"),
        (lambda folder: (folder / "07.txt").write_text(" "), "07.txt is empty"),
        (lambda folder: (folder / "07.txt").write_bytes(b"\xff"), "07.txt is not readable as UTF-8"),
        (lambda folder: (folder / "07.txt").write_text("red " * 20_000), "07.txt is too long"),
    ],
)
def test_text_files_that_are_no_captions_are_passed_over(tmp_path, caplog, change, reason):
    images(tmp_path, 20)
    beside(tmp_path, 20)
    change(tmp_path)
    with caplog.at_level(logging.INFO):
        assert load_data(str(tmp_path)).train.captions is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"{tmp_path}: text files beside images are passed over as captions, for {reason}"


def test_halves_of_characters(tmp_path):
    images(tmp_path, 1)
    (tmp_path / "captions.json").write_text('{"00.png": "\\ud800"}')
    with pytest.raises(InputError, match=r"captions.json: '00.png' or its caption has halves"):
        load_data(str(tmp_path))
