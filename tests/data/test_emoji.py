"""The datasets of emoji."""

import pytest
import torch

from pyro_vae.data import Scenes, load_data
from pyro_vae.data.images import square
from pyro_vae.data.scenes import GRID
from pyro_vae.data.sources import emoji
from pyro_vae.errors import CorruptFileError, InputError

there = pytest.mark.skipif(
    not any((folder / emoji.FONT).is_file() for folder in emoji.FONT_FOLDERS), reason="the emoji font is not installed"
)


@there
def test_scenes_of_emoji():
    data = load_data("emoji", scenes=400)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [400, 128, 256]
    assert data.train.shape == (3, 32, 32) and data.train.tensors["x"].dtype == torch.uint8
    assert len(data.extra(Scenes).names) == 16 and "scenes of 16 objects: mouse face, red apple" in data.description
    for part in ("train", "validation", "test"):
        layout, objects = data.extra(Scenes).parse(data.splits[part].captions)
        assert torch.equal(data.extra(Scenes).draw(layout, objects), getattr(data, part).tensors["x"])
        assert (layout == GRID).float().mean() == 0.75
    small = load_data("emoji", scenes=400, limit=10)
    assert small.test.captions == data.test.captions[:10] and len(small.test) == 10
    large = load_data("emoji", scenes=8, objects=9, image_size=64)
    assert large.train.shape == (3, 64, 64) and large.extra(Scenes).names == emoji.NAMES[:9]


@there
def test_objects_are_distinguishable():
    x = square(emoji.draw_emoji([emoji.unicodedata.lookup(name) for name in emoji.NAMES]), 16) / 255
    x = torch.cat([x, torch.ones_like(x[:1])]).flatten(1)  # and white
    distance = torch.cdist(x, x).square() / x.shape[1] + 9 * torch.eye(len(x))
    assert distance.min() > 0.04 and distance[:16, :16].min() > 0.08  # mean squared error, of a range of 1


@there
def test_all_emoji_with_their_names(monkeypatch):
    monkeypatch.setattr(emoji, "BLOCKS", (range(0x1F400, 0x1F440), range(0x2200, 0x2210)))  # animals, and no emoji
    data = load_data("emoji-names")
    captions = [told for split in data.splits.values() for told in split.captions]
    assert len(captions) == len(set(captions)) == 64 and "mouse face" in captions
    assert data.train.shape == (3, 32, 32) and len(data.train) == 52 and data.extra(Scenes) is None
    place = data.train.captions.index("mouse face") if "mouse face" in data.train.captions else None
    if place is not None:
        mouse = square(emoji.draw_emoji(["\U0001f42d"]), 32)[0]
        assert torch.equal(data.train.tensors["x"][place], mouse)


def test_without_the_font(monkeypatch, tmp_path):
    monkeypatch.setattr(emoji, "FONT_FOLDERS", (tmp_path / "fonts",))
    with pytest.raises(InputError, match=r"NotoColorEmoji.ttf, which is not there .*apt-get install fonts-noto-color"):
        load_data("emoji")
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / emoji.FONT).write_bytes(b"no font")
    with pytest.raises(CorruptFileError, match=r"fonts/NotoColorEmoji.ttf: cannot be drawn .*apt-get install"):
        load_data("emoji")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 30}, "image_size must be a multiple of 4 from 16 to 256"),
        ({"image_size": 8}, "image_size must be a multiple of 4 from 16 to 256"),
        ({"objects": 7}, "objects must be from 8 to 48, got 7"),
        ({"objects": 49}, "objects must be from 8 to 48, got 49"),
        ({"scenes": 3}, "scenes must be 4 or more"),
        ({"scenes": 0}, "scenes must be a positive integer"),
        ({"length": 10}, "length is not for these data, which have objects, scenes"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        load_data("emoji", **arguments)


def test_scenes_are_of_emoji_only():
    with pytest.raises(InputError, match="objects is not for these data, which have no options of their own"):
        load_data("mnist5k", objects=9)
