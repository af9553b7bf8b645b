"""White shapes on black, drawn here from five independent factors, which are known of every image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.data.dataset import Classes, RawData
from pyro_vae.data.parts import SPLIT_SEED
from pyro_vae.data.registry import check_counts, source
from pyro_vae.data.split import FACTOR
from pyro_vae.errors import InputError
from pyro_vae.runtime import check_room

SHAPES = ("square", "ellipse", "heart")
FACTORS = {"shape": len(SHAPES), "size": 6, "orientation": 12, "x": 12, "y": 12}  # how many values each has
COMBINATIONS = math.prod(FACTORS.values())
HELD_OUT = {"test": 5_000, "validation": 2_000}
IMAGES, MOST = 20_000, COMBINATIONS - sum(HELD_OUT.values())
IMAGE_SIZE = 32
SIDES = (5.5, 11.0)  # square roots of the smallest and the largest area, in 32nds of an image's side
CENTRES = (10.0, 22.0)  # the first and the last place of a centre, in the same unit
FINER = 4  # a pixel's grey level is the part of 4 x 4 points in it that are inside
REACH = 9.0  # of the largest shape from its centre, in 32nds of an image's side, and a little more
CHUNK = 16  # images drawn at once: small enough for a processor's cache
HEART_AREA, HEART_MIDDLE = 3.66198, 0.29348  # of (u^2 + v^2 - 1)^3 <= u^2 v^3: area, and v of the centre of mass


@source(
    "shapes",
    "white squares, ellipses and hearts on black, drawn here from 5 independent factors that are known of each (shape, "
    "size, orientation, x, y), 32x32 grey unless image_size says otherwise; 20,000 train / 2,000 validation / "
    "5,000 test",
)
def load_shapes(image_size: int | None, limit: int | None, *, images: int = IMAGES) -> RawData:
    """Draw shapes (:func:`draw_shapes`); all images are of different combinations of the factors' values.

    Args:
        image_size: pixels a side, 32 if None.
        limit: at most so many of each part are drawn.
        images: how many for training, 20,000 if it is not said, 24,104 at most: as many combinations are left.

    Returns:
        ``x`` uint8 (N, 1, image_size, image_size), the shape ``y`` int64 (N,), and every factor's value, counted from
        0, ``factor.shape``, ``factor.size``, ``factor.orientation``, ``factor.x``, ``factor.y``, int64 (N,).

    Raises:
        InputError: for arguments out of range.
    """
    check_counts(images=images)
    size = IMAGE_SIZE if image_size is None else image_size
    if not 8 <= size <= 512:
        raise InputError(f"shapes: image_size must be from 8 to 512, got {size}")
    if images > MOST:
        raise InputError(
            f"shapes: images must be at most {MOST:,}, got {images:,}: of {COMBINATIONS:,} combinations "
            f"{sum(HELD_OUT.values()):,} are for validation and test"
        )
    order = torch.randperm(COMBINATIONS, generator=torch.Generator().manual_seed(SPLIT_SEED))
    places = order.split([*HELD_OUT.values(), MOST])
    index = {"train": places[-1][:images], **dict(zip(HELD_OUT, places, strict=False))}
    index = {part: index[part][:limit] for part in ("train", "validation", "test")}
    check_room(f"shapes: image_size={size}", sum(map(len, index.values())) * size**2, "give a smaller one, or a limit")
    parts = {}
    for part, which in index.items():
        values = combination(which)
        named = {f"{FACTOR}{name}": values[:, i].contiguous() for i, name in enumerate(FACTORS)}
        parts[part] = {"x": draw_shapes(values, size), "y": values[:, 0].contiguous(), **named}
    return RawData(parts, extras=(Classes(SHAPES),))


def combination(index: Tensor) -> Tensor:
    """The factors' values of combinations 0 … 31,103 ``(N,)``, int64 ``(N, 5)`` in the order of ``FACTORS``."""
    return torch.stack(torch.unravel_index(index, tuple(FACTORS.values())), 1)


def draw_shapes(values: Tensor, size: int = IMAGE_SIZE) -> Tensor:
    """Images of shapes.

    A square, an ellipse twice as long as wide, and a heart, of one area s^2 at one size: s goes in even steps from 5.5
    to 11 pixels of 32. The centre of mass is at 10 to 22 pixels from the left (x) and the top (y). Orientations are 0
    to 82.5 degrees, anticlockwise: less than the quarter of a turn after which a square is itself again, so that every
    factor can be told from an image.

    Args:
        values: of the factors, from 0, int64 ``(N, 5)``: shape, size, orientation, x, y.
        size: pixels a side.

    Returns:
        uint8 ``(N, 1, size, size)``, the part of each pixel that is inside, of 255.

    Example:
        >>> import torch
        >>> from pyro_vae.data.sources.shapes import draw_shapes
        >>> small, large = draw_shapes(torch.tensor([[0, 0, 0, 6, 6], [0, 5, 0, 6, 6]])).float() / 255
        >>> round(small.sum().sqrt().item(), 1), round(large.sum().sqrt().item(), 1)  # the sides of two squares
        (5.5, 11.0)
    """
    unit = size / IMAGE_SIZE
    on_the_way = values.float() / (torch.tensor(list(FACTORS.values())) - 1)  # (N, 5), from the first value, 0, to 1
    side = unit * (SIDES[0] + (SIDES[1] - SIDES[0]) * on_the_way[:, 1])
    turn = (math.pi / 2) * values[:, 2].float() / FACTORS["orientation"]
    centre = unit * (CENTRES[0] + (CENTRES[1] - CENTRES[0]) * on_the_way[:, 3:])  # (N, 2)
    width = min(size, math.ceil(2 * REACH * unit) + 1)  # of a window that a shape is inside of, in pixels
    corner = (centre - width / 2).round().long().clamp(0, size - width)  # (N, 2)
    points = (torch.arange(width * FINER) + 0.5) / FINER  # of a row or a column of it
    images = torch.zeros(len(values), 1, size, size, dtype=torch.uint8)
    for shape, inside in enumerate((_in_square, _in_ellipse, _in_heart)):
        for rows in (values[:, 0] == shape).nonzero()[:, 0].split(CHUNK):
            from_middle = (points + (corner[rows] - centre[rows])[..., None]) / side[rows, None, None]  # a side is 1
            right, up = from_middle[:, 0, None, :], -from_middle[:, 1, :, None]  # (n, 1, fine), (n, fine, 1)
            cos, sin = turn[rows].cos()[:, None, None], turn[rows].sin()[:, None, None]
            found = inside(right * cos + up * sin, up * cos - right * sin)  # (n, fine, fine)
            share = found.float().reshape(len(rows), width, FINER, width, FINER).mean((2, 4))
            x, y = (corner[rows, :, None] + torch.arange(width)).unbind(1)  # (n, width) each
            images[rows[:, None, None], 0, y[:, :, None], x[:, None, :]] = (share * 255).round().to(torch.uint8)
    return images


def _in_square(u: Tensor, v: Tensor) -> Tensor:
    return (u.abs() <= 0.5) & (v.abs() <= 0.5)


def _in_ellipse(u: Tensor, v: Tensor) -> Tensor:
    return u.square() + 4 * v.square() <= 2 / math.pi  # of half axes a and a / 2


def _in_heart(u: Tensor, v: Tensor) -> Tensor:
    scale = math.sqrt(HEART_AREA)
    u, v = u * scale, v * scale + HEART_MIDDLE
    u = u.square()
    edge = u + v.square() - 1
    return edge.square() * edge <= u * v.square() * v
