"""Shapes of known factors: as large, where and turned as the factors say, and every image different."""

import math

import pytest
import torch

from pyro_vae.data import Classes, Split, load_data
from pyro_vae.data.sources.shapes import COMBINATIONS, FACTORS, combination, draw_shapes
from pyro_vae.errors import InputError

NAMES = ["shape", "size", "orientation", "x", "y"]


def moments(images):
    """Area, centre (x, y) from the left and the top, and the second central moments xx, xy, yy, of each image."""
    x = images[:, 0].double() / 255
    places = torch.arange(x.shape[-1]) + 0.5
    area = x.sum((1, 2))
    middle_x, middle_y = (x.sum(1) @ places.double()) / area, (x.sum(2) @ places.double()) / area
    across, down = places - middle_x[:, None], places - middle_y[:, None]
    second = [torch.einsum("nij,ni,nj->n", x, a, b) / area for a, b in ((0 * down + 1, across**2), (down, across))]
    return area, middle_x, middle_y, *second, torch.einsum("nij,ni->n", x, down**2) / area


def test_parts_classes_and_factors():
    data = load_data("shapes", limit=40)
    assert {part: len(split) for part, split in data.splits.items()} == dict.fromkeys(data.splits, 40)
    assert data.train.shape == (1, 32, 32) and data.train.tensors["x"].dtype == torch.uint8
    assert data.extra(Classes).names == ("square", "ellipse", "heart")
    for split in data.splits.values():
        factors = split.factors
        assert list(factors) == NAMES and torch.equal(factors["shape"], split.tensors["y"])
        values = torch.stack(list(factors.values()), 1)
        assert torch.equal(draw_shapes(values), split.tensors["x"])
    assert torch.equal(load_data("shapes", limit=40).test.tensors["x"], data.test.tensors["x"])
    fewer = load_data("shapes", images=30, limit=100)
    assert len(fewer.train) == 30 and torch.equal(fewer.test.tensors["x"][:40], data.test.tensors["x"])
    assert torch.equal(fewer.train.tensors["x"], data.train.tensors["x"][:30])


def test_no_combination_is_twice_in_the_data_and_all_are_possible(monkeypatch):
    monkeypatch.setattr(
        "pyro_vae.data.sources.shapes.draw_shapes", lambda values, size: torch.zeros(len(values), 1, 8, 8)
    )
    data = load_data("shapes", images=24_104)
    assert [len(split) for split in data.splits.values()] == [24_104, 2_000, 5_000]
    every = torch.cat([torch.stack(list(split.factors.values()), 1) for split in data.splits.values()])
    assert len(every.unique(dim=0)) == COMBINATIONS == len(every) == 3 * 6 * 12 * 12 * 12
    test = torch.stack(list(data.test.factors.values()), 1).double()
    for column, count in zip(test.T.long(), FACTORS.values(), strict=True):
        share = column.bincount(minlength=count) / len(column)
        assert (share - 1 / count).abs().max() < 5 * math.sqrt(1 / count / len(column))
    assert (torch.corrcoef(test.T) - torch.eye(5)).abs().max() < 5 / math.sqrt(len(test))  # independent


def test_combinations_are_all_products():
    every = combination(torch.arange(COMBINATIONS))
    assert every.min() == 0 and every.amax(0).tolist() == [2, 5, 11, 11, 11] and len(every.unique(dim=0)) == len(every)


@pytest.mark.parametrize("size", [32, 64])
def test_area_and_centre_are_what_the_factors_say(size):
    values = combination(torch.randperm(COMBINATIONS, generator=torch.Generator().manual_seed(0))[:400])
    area, x, y, *_ = moments(draw_shapes(values, size))
    unit = size / 32
    sides = 5.5 + 1.1 * values[:, 1].double()
    assert (area / unit**2 / sides**2 - 1).abs().max() < 0.06  # of points in a pixel
    assert (x / unit - 10 - 12 / 11 * values[:, 3]).abs().max() < 0.15  # an edge is at a quarter of a pixel
    assert (y / unit - 10 - 12 / 11 * values[:, 4]).abs().max() < 0.15


def test_orientation_is_the_angle_of_the_ellipse_and_the_square_is_turned_with_it():
    values = torch.tensor([[1, 5, turn, 5, 5] for turn in range(12)])
    _, _, _, xx, xy, yy = moments(draw_shapes(values, 128))
    angle = 0.5 * torch.atan2(-2 * xy, xx - yy)  # anticlockwise: y goes down
    torch.testing.assert_close(angle, math.pi / 24 * torch.arange(12).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(xx[0] / yy[0], torch.tensor(4.0, dtype=torch.float64), atol=0.1, rtol=0)  # (2 to 1)^2
    corner = draw_shapes(torch.tensor([[0, 5, 0, 0, 0], [0, 5, 6, 0, 0]]), 128)[:, 0, :, 20:60] > 127
    upright, diamond = (seen.any(1).sum().item() for seen in corner)
    assert abs(upright - 44) <= 1 and abs(diamond - 44 * math.sqrt(2)) <= 2  # rows that it takes


def test_a_square_and_a_heart_by_hand():
    square = draw_shapes(torch.tensor([[0, 5, 0, 0, 11]]))[0, 0]  # 11 wide, about (10, 22): from 4.5 to 15.5
    expected = torch.zeros(32)
    expected[5:15], expected[4], expected[15] = 255, 128, 128
    assert torch.equal(square[22].float(), expected)
    assert square[17:27, 5:15].eq(255).all() and square[16, 4] == 64  # a quarter of the pixel at its corner
    heart = draw_shapes(torch.tensor([[2, 5, 0, 6, 6]]), 64)[0, 0] > 127
    rows = heart.sum(1).nonzero()[:, 0]
    assert heart.sum(1)[rows[0]] > 2 * heart.sum(1)[rows[-1]]  # its tip is below
    assert torch.equal(heart[rows[0]].diff().bool().sum(), torch.tensor(4))  # two lobes above


def test_every_image_of_one_place_can_be_told_from_the_others():
    values = torch.tensor([[a, b, c, 5, 5] for a in range(3) for b in range(6) for c in range(12)])
    x = draw_shapes(values).flatten(1).double() / 255
    distance = torch.cdist(x, x).square() + 9 * torch.eye(len(x))
    assert distance.min() > 0.15  # squared, of pixels in [0, 1]


def test_binary_and_of_another_size():
    data = load_data("shapes", limit=10, image_size=16, binarization="threshold")
    assert data.test.shape == (1, 16, 16) and data.test.tensors["x"].dtype == torch.bool


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 4}, "image_size must be from 8 to 512, got 4"),
        ({"images": 0}, "images must be a positive integer"),
        ({"images": 24_105}, "images must be at most 24,104, got 24,105: of 31,104 combinations 7,000 are for"),
        ({"scenes": 3}, "scenes is not for these data, which have images"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        load_data("shapes", **arguments)


def test_factors_of_other_data():
    assert Split({"x": torch.rand(3, 2), "y": torch.arange(3)}).factors == {}
    split = Split({"x": torch.rand(3, 2), "factor.side": torch.arange(3)})
    assert torch.equal(split.factors["side"], torch.arange(3)) and list(split.subset(2).factors) == ["side"]
