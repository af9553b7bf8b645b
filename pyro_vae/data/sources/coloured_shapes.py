"""Shapes whose colours, given their grey image, follow an exactly known mixture of palettes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.data.colours import COLOUR, LIGHTNESS, LabPictures
from pyro_vae.data.dataset import Classes, RawData
from pyro_vae.data.parts import SPLIT_SEED
from pyro_vae.data.registry import check_counts, source
from pyro_vae.data.sources.shapes import COMBINATIONS, SHAPES, combination, draw_shapes
from pyro_vae.errors import InputError
from pyro_vae.runtime import check_room

OF_SHAPE, OF_BACKGROUND = 55.0, 75.0  # lightness L, whatever the colours
NOISE = 0.03  # standard deviation of x, in units of 128 of a and b, at every pixel by itself
PALETTES = (  # of each shape: probability, (a, b) of the shape, (a, b) of the background
    (  # square
        (0.5, (40, 25), (0, 0)),
        (0.3, (-30, 30), (0, 0)),
        (0.2, (10, -40), (-8, 25)),
    ),
    (  # ellipse
        (0.4, (0, 40), (0, 0)),
        (0.3, (35, -30), (0, 0)),
        (0.2, (-25, -10), (15, 10)),
        (0.1, (40, 25), (-15, -10)),
    ),
    (  # heart
        (0.7, (45, 15), (0, 0)),
        (0.3, (-5, -35), (20, -8)),
    ),
)
HELD_OUT = {"test": 1_000, "validation": 500}
IMAGES, MOST = 6_000, 20_000


@source(
    "coloured-shapes",
    "colours (a, b) of grey squares, ellipses and hearts, drawn here: each shape has 2 to 4 palettes of known "
    "probabilities, so that p(colours | grey image) is known exactly; 32x32; 6,000 train / 500 validation / 1,000 test",
)
def load_coloured_shapes(limit: int | None, *, images: int = IMAGES) -> RawData:
    """Draw shapes and their colours (:func:`draw_colours`); all images are of different combinations of factors.

    Args:
        limit: at most so many of each part are drawn.
        images: how many for training, 6,000 if it is not said, 20,000 at most.

    Returns:
        ``x`` = (a, b) / 128 float32 (N, 2, 32, 32); ``image`` = L / 100 (N, 1, 32, 32); the shape ``y``, and which
        ``palette`` it has, int64 (N,).

    Raises:
        InputError: for arguments out of range.
    """
    check_counts(images=images)
    if images > MOST:
        raise InputError(f"coloured-shapes: images must be at most {MOST:,}, got {images:,}")
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    order = torch.randperm(COMBINATIONS, generator=generator)[: sum(HELD_OUT.values()) + MOST]
    places = order.split([*HELD_OUT.values(), MOST])
    index = {"train": places[-1][:images], **dict(zip(HELD_OUT, places, strict=False))}
    check_room(f"coloured-shapes: images={images}", 4 * 3 * 1024 * sum(map(len, index.values())))
    parts = {}
    for number, part in enumerate(("train", "validation", "test")):
        values = combination(index[part][:limit])
        y = values[:, 0].contiguous()
        image = grey_images(values)
        own = torch.Generator().manual_seed(SPLIT_SEED + 1 + number)
        x, palette = draw_colours(image, y, own)
        parts[part] = {"x": x, "image": image, "y": y, "palette": palette}
    return RawData(parts, extras=(Classes(SHAPES), LabPictures()))


def grey_images(values: Tensor) -> Tensor:
    """L / 100 of shapes, float32 ``(N, 1, 32, 32)``: 0.55 inside, 0.75 outside, between where both are in a pixel.

    Args:
        values: of the factors of :func:`~pyro_vae.data.sources.shapes.draw_shapes`, int64 ``(N, 5)``.
    """
    covered = draw_shapes(values).float() / 255
    return (OF_BACKGROUND + (OF_SHAPE - OF_BACKGROUND) * covered) / LIGHTNESS


def palettes(image: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    r"""The mixture p(x | image) = sum_m w_m N(x; mu_m, 0.03^2 I).

    .. math:: \mu_m = c f_m + (1 - c) g_m, \quad c = (0.75 - image) / 0.2

    with the shape's colour f and the background's g; c is the part of a pixel that is inside.

    Args:
        image: ``(N, 1, H, W)``.
        y: the shapes in it, int64 ``(N,)``: a function of the image.

    Returns:
        log w ``(N, 4)``, -inf for what a shape does not have; and mu ``(N, 4, 2, H, W)``.
    """
    most = max(map(len, PALETTES))
    weights, colours = torch.zeros(len(PALETTES), most), torch.zeros(len(PALETTES), most, 2, 2)
    for shape, known in enumerate(PALETTES):
        for place, (weight, *both) in enumerate(known):
            weights[shape, place], colours[shape, place] = weight, torch.tensor(both) / COLOUR
    covered = (OF_BACKGROUND - LIGHTNESS * image) / (OF_BACKGROUND - OF_SHAPE)
    covered = covered.unsqueeze(1)  # (N, 1, 1, H, W)
    inside, outside = colours.to(image)[y][..., None, None].unbind(2)  # (N, M, 2, 1, 1) each
    return weights.to(image).log()[y], covered * inside + (1 - covered) * outside


def draw_colours(image: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws of p(x | image).

    Args:
        image, y: as for :func:`palettes`.
        generator: of the draws.

    Returns:
        x ``(N, 2, H, W)``, and the palettes ``(N,)`` int64.
    """
    log_weights, means = palettes(image, y)
    which = torch.multinomial(log_weights.exp(), 1, generator=generator)[:, 0]
    mean = means[torch.arange(len(which)), which]
    return mean + NOISE * torch.randn(mean.shape, generator=generator), which


def palette_densities(x: Tensor, image: Tensor, y: Tensor) -> Tensor:
    """log p(x, palette | image) of colours x ``(N, 2, H, W)``, nats, float64 ``(N, 4)``: their softmax says which.

    Example:
        >>> from pyro_vae.data import load_data
        >>> from pyro_vae.data.sources.coloured_shapes import palette_densities
        >>> batch = load_data("coloured-shapes", limit=50).test.batch(slice(None))
        >>> found = palette_densities(batch["x"], batch["image"], batch["y"])
        >>> bool((found.argmax(1) == batch["palette"]).all()), found.logsumexp(1).shape  # log p(x | image)
        (True, torch.Size([50]))
    """
    log_weights, means = palettes(image.double(), y)
    square = (x.double().unsqueeze(1) - means).square().sum((2, 3, 4))  # (N, M)
    size = x[0].numel()
    return log_weights - square / (2 * NOISE**2) - size * (math.log(NOISE) + 0.5 * math.log(2 * math.pi))
