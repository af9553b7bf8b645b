"""Helpers of figures: which data are drawn, as pictures or curves, and in what grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.plots.drawing import Figure
from pyro_vae.programs.context import X


def pick(split: Split, n: int, seed: int = 0) -> dict[str, Tensor]:
    """A batch of at most n data at even distances, so that a split sorted by class shows all of them.

    Args:
        split: the data.
        n: how many.
        seed: of dynamic binarization's draws.

    Returns:
        ``(min(n, len(split)), ...)`` by key.
    """
    index = evenly(len(split), n).to(split.device)
    return split.fixed(index).batch(slice(None))


def picked(split: Split, n: int, seed: int = 0) -> Split:
    """What :func:`pick` picks, as a split."""
    index = evenly(len(split), n)
    names = None if split.names is None else [split.names[i] for i in index.tolist()]
    return Split(pick(split, n, seed), integers=split.integers, missing=split.missing, names=names, name=split.name)


def evenly(count: int, n: int) -> Tensor:
    """The places of at most n of ``count`` data at even distances, int64 ``(min(n, count),)``."""
    n = min(n, count)
    return torch.arange(n) * count // n


GOLDEN = 0.6180339887498949  # of a turn: hues of neighbouring codes lie far apart, and no two codes' are equal
LIGHTNESS, CHROMA = (0.72, 0.52, 0.87), 0.13


def code_colours(num_codes: int) -> np.ndarray:
    """Colours of codes 0 … K-1: even steps of hue in a space of even perception, and three levels of lightness.

    The numbers of codes are names, so that no two colours are nearer than others for a reason.

    Args:
        num_codes: K.

    Returns:
        sRGB ``(K, 3)`` in [0, 1].

    Source: Ottosson 2020, "A perceptual color space for image processing" (Oklab).
    """
    index = np.arange(num_codes)
    light = np.array(LIGHTNESS)[index % len(LIGHTNESS)]
    angle = 2 * np.pi * ((index * GOLDEN) % 1.0)
    a, b = CHROMA * np.cos(angle), CHROMA * np.sin(angle)
    cones = np.stack(
        [
            light + 0.3963377774 * a + 0.2158037573 * b,
            light - 0.1055613458 * a - 0.0638541728 * b,
            light - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = (to_rgb @ cones**3).clip(0, 1)  # (3, K)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).T


Limits = tuple[float, float]


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether data of a shape can be drawn as images: (H, W), or (C, H, W) with one or three channels."""
    return (len(shape) == 2 and shape[0] > 1) or (len(shape) == 3 and shape[0] in (1, 3))


def is_point(shape: tuple[int, ...]) -> bool:
    """Whether data of a shape are one or two numbers each."""
    return len(shape) < 2 and math.prod(shape) < 3


def is_curve(shape: tuple[int, ...]) -> bool:
    """Whether data of a shape can be drawn as a line: a vector (L,), L > 1, or a signal of one channel, (1, L)."""
    return (len(shape) == 1 and shape[0] > 1) or (len(shape) == 2 and shape[0] == 1)


def in_shape(values: Tensor, shape: tuple[int, ...], leading: int = 1) -> Tensor:
    """What a model makes of data, in the data's own shape: its data site may have them flat, or with a channel.

    Args:
        values: ``(..., *event)``.
        shape: of one datum.
        leading: how many dimensions come before the event's.

    Raises:
        InputError: if a datum has another number of elements than the site's event.
    """
    event = tuple(values.shape[leading:])
    if math.prod(event) != math.prod(shape):
        raise InputError(
            f"the data x have shape {tuple(shape)} each, but the model's data site has {event}: one is not to be shown "
            "as the other"
        )
    return values.reshape(*values.shape[:leading], *shape)


def shaped_like_x(values: Tensor, batch: Mapping[str, Tensor] | None) -> Tensor:
    """Means ``(n, *event)`` in the shape of the batch's x, where there is one with as many elements."""
    x = (batch or {}).get(X)
    same = x is not None and math.prod(x.shape[1:]) == math.prod(values.shape[1:])
    return values.reshape(len(values), *x.shape[1:]) if same else values


def grey_range(x: Tensor | None) -> Limits:
    """What is black and what is white where data are shown: 0 and 1; of what goes beyond, its own range.

    Args:
        x: data, ``(n, ...)``, of any type.
    """
    if x is None or not x.numel():
        return 0.0, 1.0
    known = x[~x.isnan()] if x.is_floating_point() else x
    return (min(known.min().item(), 0.0), max(known.max().item(), 1.0)) if known.numel() else (0.0, 1.0)


def kind(values: Tensor) -> str:
    """What is shown of p(x | z): a mean, or, where integers have none, a draw."""
    return "mean" if values.is_floating_point() else "a draw"


def range_in_words(limits: Limits) -> str:
    """What is said of a range of grey; nothing of 0 … 1."""
    return "" if limits == (0.0, 1.0) else f"black is {limits[0]:.4g}, white is {limits[1]:.4g}"


def mosaic(images: Tensor, columns: int, gap: int = 1, limits: Limits = (0.0, 1.0)) -> np.ndarray:
    """Lay images out in rows, the first at the top left.

    Args:
        images: ``(n, H, W)`` or ``(n, C, H, W)`` with 1 or 3 channels.
        columns: images in a row.
        gap: white pixels between them.
        limits: what is black and what is white, beyond which values are clipped.

    Returns:
        ``(height, width, 3)``, values in [0, 1].
    """
    if images.dim() == 3:
        images = images.unsqueeze(1)
    n, _, height, width = images.shape
    rows = math.ceil(n / columns)
    low, high = limits
    levels = (images.detach().float().nan_to_num() - low) / (high - low)
    colours = levels.clamp(0, 1).expand(-1, 3, -1, -1).movedim(1, -1)  # (n, H, W, 3)
    canvas = torch.ones(rows, columns, height + gap, width + gap, 3)
    canvas.view(rows * columns, height + gap, width + gap, 3)[:n, :height, :width] = colours.cpu()
    canvas = canvas.transpose(1, 2).reshape(rows * (height + gap), columns * (width + gap), 3)
    return canvas[: rows * (height + gap) - gap, : columns * (width + gap) - gap].numpy()


def labelled_columns(columns: dict[str, Tensor], rows: list[str] | None = None, limits: Limits = (0.0, 1.0)) -> Figure:
    """Images in a grid with a title above each column.

    Args:
        columns: images ``(n, 1 or 3, H, W)`` by title, all of one size.
        rows: what to write beside the rows.
        limits: what is black and what is white.
    """
    n, _, height, width = next(iter(columns.values())).shape
    count, side = len(columns), 0.85  # inches an image is wide
    images = torch.stack([v.expand(-1, 3, -1, -1) for v in columns.values()], 1).flatten(0, 1)  # (n * count, 3, H, W)
    size = (max(6.0, side * count + 0.3), side * n * height / width + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.imshow(mosaic(images, columns=count, limits=limits))
    axes.set_xlabel(range_in_words(limits))
    axes.xaxis.tick_top()
    axes.set_xticks([(i + 0.5) * (width + 1) - 1 for i in range(count)], list(columns), fontsize="small")
    axes.set_yticks([(i + 0.5) * (height + 1) - 1 for i in range(n)] if rows else [], rows or [], fontsize="small")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


LONGEST = 1000  # points of a line; a longer one is drawn as the band that it fills
BANDS = 400  # at most so many neighbourhoods of it, about a pixel wide each
FEW = 30  # points that have a mark each


def draw_curve(axes: Axes, values: Tensor, marker_size: float | None = None, **style: Any) -> None:
    """Draw a vector ``(L,)``, or a signal ``(1, L)``, over the index of its entries.

    More than 1000 entries, as of sound, are drawn as the band between the least and the greatest of every few
    neighbours: what the line would look like, at a fraction of the work.

    Args:
        axes: where.
        values: the curve.
        marker_size: of the marks that a short curve has.
        style: of the line: colour, label, ...
    """
    values = values.detach().flatten().float().cpu()
    if len(values) <= LONGEST:
        if len(values) < FEW:
            style |= {"marker": ".", "markersize": marker_size}
        axes.plot(values.tolist(), **style)
        return
    step = -(-len(values) // BANDS)
    padded = torch.cat([values, values[-1:].expand(-len(values) % step)]).reshape(-1, step)  # (bands, step)
    low, high = padded.amin(1), padded.amax(1)
    places = torch.arange(len(low)) * step
    style = {name: value for name, value in style.items() if name in ("color", "label", "alpha")}
    axes.fill_between(places.tolist(), low.tolist(), high.tolist(), linewidth=0.3, **style)


def is_drawable(shape: tuple[int, ...]) -> bool:
    """Whether data of a shape can be drawn: images or vectors."""
    return is_image(shape) or is_curve(shape)


def grid(
    values: Tensor,
    title: str,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    axis: str = "",
    limits: Limits = (0.0, 1.0),
) -> Figure:
    """Images, or curves, in a grid.

    Args:
        values: ``(rows, columns, *shape)``.
        title: of the figure.
        rows, columns: what is said at the left and at the top of each.
        axis: what the rows' labels are.
        limits: what is black and what is white in images.
    """
    if is_image(tuple(values.shape[2:])):
        return _images(values, title, rows, columns, axis, limits)
    return _curves(values, title, rows, columns, axis)


def _images(
    values: Tensor, title: str, rows: Sequence[str], columns: Sequence[str], axis: str, limits: Limits
) -> Figure:
    down, across, height, width = values.shape[0], values.shape[1], values.shape[-2], values.shape[-1]
    side = 0.75 * max(1.0, (width / height) ** 0.5)  # inches an image is wide
    size = max(6.0, side * across + 1.2), side * down * height / width + 0.8 + 0.3 * bool(columns)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.imshow(mosaic(values.flatten(0, 1), columns=across, limits=limits))
    axes.set_xlabel(range_in_words(limits))
    axes.xaxis.tick_top()
    axes.set_xticks([(i + 0.5) * (width + 1) - 1 for i in range(len(columns))], columns)
    axes.set_yticks([(i + 0.5) * (height + 1) - 1 for i in range(len(rows))], rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel(axis)
    figure.suptitle(title)
    return figure


def curve_panels(figure: Figure, rows: int, columns: int) -> np.ndarray:
    """Panels of one scale, ``(rows, columns)``, with ticks at the left and below: to lay out all takes long."""
    places = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for place in places.flat:
        place.tick_params(labelsize="x-small")
    for axis in [*(place.xaxis for place in places[:-1].flat), *(place.yaxis for place in places[:, 1:].flat)]:
        axis.set_visible(False)
    return places


def _curves(values: Tensor, title: str, rows: Sequence[str], columns: Sequence[str], axis: str) -> Figure:
    down, across = values.shape[:2]
    figure = Figure(figsize=(max(6.0, 1.3 * across + 0.8), 0.9 * down + 1.0), layout="constrained")
    places = curve_panels(figure, down, across)
    for i, row in enumerate(values):
        for place, curve in zip(places[i], row, strict=True):
            draw_curve(place, curve, 3, linewidth=1)
    for place, text in zip(places[:, 0], rows, strict=False):
        place.set_ylabel(text, rotation=0, ha="right", va="center", fontsize="small")
    for place, text in zip(places[0], columns, strict=False):
        place.set_title(text, fontsize="small")
    figure.supylabel(axis, fontsize="medium")
    figure.suptitle(title)
    return figure
