"""Data as pictures: which shapes are images, and many of them in one array."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.errors import InputError

Limits = tuple[float, float]


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether data of a shape can be drawn as images: (H, W), or (C, H, W) with one or three channels."""
    return (len(shape) == 2 and shape[0] > 1) or (len(shape) == 3 and shape[0] in (1, 3))


def is_curve(shape: tuple[int, ...]) -> bool:
    """Whether data of a shape can be drawn as a line: a vector (L,), or a signal of one channel, (1, L)."""
    return len(shape) == 1 or (len(shape) == 2 and shape[0] == 1)


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
    x = (batch or {}).get("x")
    same = x is not None and math.prod(x.shape[1:]) == math.prod(values.shape[1:])
    return values.reshape(len(values), *x.shape[1:]) if same else values


def grey_range(x: Tensor | None) -> Limits:
    """What is black and what is white where data are shown: 0 and 1; of integers (counts, levels) their own range.

    Args:
        x: data, ``(n, ...)``; numbers of any type of which all are integers, and some others than 0 and 1, are such.
    """
    if x is None or not x.numel():
        return 0.0, 1.0
    low, high = x.min().item(), x.max().item()
    integers = not x.is_floating_point() or bool((x == x.round()).all())
    return (min(low, 0.0), max(high, 1.0)) if integers else (0.0, 1.0)


def kind(values: Tensor) -> str:
    """What is shown of p(x | z): a mean, or, where integers have none, a draw."""
    return "mean" if values.is_floating_point() else "a draw"


def told_range(limits: Limits) -> str:
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
    axes.set_xlabel(told_range(limits))
    axes.xaxis.tick_top()
    axes.set_xticks([(i + 0.5) * (width + 1) - 1 for i in range(count)], list(columns), fontsize="small")
    axes.set_yticks([(i + 0.5) * (height + 1) - 1 for i in range(n)] if rows else [], rows or [], fontsize="small")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
