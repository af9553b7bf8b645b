"""Composed scenes: where objects stand, captions, and which combinations are held out."""

import pytest
import torch
from made_scenes import NAMES, made_scenes

from pyro_vae.data import Scenes
from pyro_vae.data.scenes import ABOVE, GRID, LEFT_OF
from pyro_vae.data.sources.emoji import combinations, draw_scenes
from pyro_vae.errors import InputError


def test_drawn_where_the_caption_says():
    scenes = made_scenes(4)
    layout = torch.tensor([LEFT_OF, ABOVE, GRID])
    objects = torch.tensor([[0, 1, -1, -1], [2, 3, -1, -1], [4, 5, 6, 7]])
    images = scenes.draw(layout, objects)
    assert images.shape == (3, 3, 8, 8) and images.dtype == torch.uint8
    b = scenes.bitmaps
    expected = torch.full((3, 3, 8, 8), 255, dtype=torch.uint8)
    expected[0, :, 2:6, :4], expected[0, :, 2:6, 4:] = b[0], b[1]
    expected[1, :, :4, 2:6], expected[1, :, 4:, 2:6] = b[2], b[3]
    expected[2] = torch.cat([torch.cat([b[4], b[5]], 2), torch.cat([b[6], b[7]], 2)], 1)
    assert torch.equal(images, expected)
    for kind in (LEFT_OF, ABOVE, GRID):  # the boxes tile the image
        count = torch.zeros(8, 8)
        for box in scenes.boxes(kind) + scenes.white(kind):
            box.cut(count).add_(1)
        assert (count == 1).all()


def test_captions_there_and_back():
    scenes = made_scenes()
    layout = torch.tensor([LEFT_OF, ABOVE, GRID])
    objects = torch.tensor([[0, 1, -1, -1], [2, 3, -1, -1], [4, 5, 6, 7]])
    captions = scenes.captions(layout, objects)
    assert captions == ("red bar left of green bar", "blue bar above cyan", "pink and lemon above black hole and grey")
    assert all(torch.equal(a, b) for a, b in zip(scenes.parse(captions), (layout, objects), strict=True))
    loose = scenes.parse([" RED  bar left of\tGreen bar "])
    assert loose[0].tolist() == [LEFT_OF] and loose[1].tolist() == [[0, 1, -1, -1]]


@pytest.mark.parametrize(
    "caption",
    [
        "red bar",
        "cyan and pink",
        "cyan above pink above grey",
        "cyan and pink above grey",
        "cyan left of pink above grey",
    ],
)
def test_captions_of_no_scene(caption):
    with pytest.raises(InputError, match=r"describes no scene: write 'A left of B'.*such as red bar"):
        made_scenes().parse([caption])


def test_bad_scenes():
    with pytest.raises(InputError, match=r"unknown object 'rad bar'\. Did you mean 'red bar'"):
        made_scenes().parse(["rad bar left of cyan"])
    bitmaps = made_scenes().bitmaps
    for names, message in {
        NAMES[:7]: "must be uint8",
        (*NAMES[:7], "salt and pepper"): "without relations",
        (*NAMES[:7], "Grey"): "plain lower case",
        (*NAMES[:7], "cyan"): "same name",
    }.items():
        with pytest.raises(InputError, match=message):
            Scenes(names, bitmaps)
    with pytest.raises(InputError, match="even side"):
        Scenes(NAMES, bitmaps[..., :5, :5])


@pytest.mark.parametrize("count", [8, 16, 25])
def test_combinations_are_held_out_evenly(count):
    part = combinations(count)
    different = ~torch.eye(count, dtype=torch.bool)
    assert (part[:, ~different] == 0).all()
    for place, expected in ((1, max(1, round(count / 16))), (2, max(1, round(count / 8)))):
        held_out = part == place
        assert (held_out.sum(1) == expected).all() and (held_out.sum(2) == expected).all()
    assert torch.equal(part, combinations(count))


def _told(layout, objects):
    """Every (relation, a, b) that a scene has, scene by scene, from its definition."""
    for kind, (a, b, c, d) in zip(layout.tolist(), objects.tolist(), strict=True):
        pairs = [(kind, a, b)] if kind != GRID else [(LEFT_OF, a, b), (LEFT_OF, c, d), (ABOVE, a, c), (ABOVE, b, d)]
        assert len({i for i in (a, b, c, d) if i >= 0}) == (4 if kind == GRID else 2)  # all different
        yield pairs


@pytest.mark.parametrize("count", [8, 16])
def test_splits(count):
    part, drawn = combinations(count), draw_scenes(count, 2000)
    assert all(torch.equal(a, b) for p in drawn for a, b in zip(drawn[p], draw_scenes(count, 2000)[p], strict=True))
    assert len(drawn["train"][0]) == 2000 and (drawn["train"][0] == GRID).sum() == 1500
    for place, name in enumerate(("train", "validation", "test")):
        found = [[int(part[t]) for t in pairs] for pairs in _told(*drawn[name])]
        assert all(set(places) <= {0, place} and place in places for places in found), name
    for place, name in ((1, "validation"), (2, "test")):
        layout, objects = drawn[name]
        rows = {(kind, *which) for kind, which in zip(layout.tolist(), map(tuple, objects.tolist()), strict=True)}
        pairs = int((part == place).sum())
        assert len(rows) == len(layout) == 4 * pairs and (layout != GRID).sum() == pairs  # nothing twice
    seen = {t for pairs in _told(*drawn["train"]) for t in pairs}
    for relation in (LEFT_OF, ABOVE):  # each object in each role is in the training data
        assert {a for r, a, _ in seen if r == relation} == {b for r, _, b in seen if r == relation} == set(range(count))
