"""Data as pictures: which shapes are images, and many of them in one array."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether data of a shape can be drawn as images: (H, W), or (C, H, W) with one or three channels."""
    return (len(shape) == 2 and shape[0] > 1) or (len(shape) == 3 and shape[0] in (1, 3))


def is_curve(shape: tuple[int, ...]) -> bool:
    """Whether data of a shape can be drawn as a line: a vector (L,), or a signal of one channel, (1, L)."""
    return len(shape) == 1 or (len(shape) == 2 and shape[0] == 1)


def mosaic(images: Tensor, columns: int, gap: int = 1) -> np.ndarray:
    """Lay images out in rows, the first at the top left.

    Args:
        images: ``(n, H, W)`` or ``(n, C, H, W)`` with 1 or 3 channels; clipped to [0, 1].
        columns: images in a row.
        gap: white pixels between them.

    Returns:
        ``(height, width, 3)``, values in [0, 1].
    """
    if images.dim() == 3:
        images = images.unsqueeze(1)
    n, _, height, width = images.shape
    rows = math.ceil(n / columns)
    colours = images.detach().float().nan_to_num().clamp(0, 1).expand(-1, 3, -1, -1).movedim(1, -1)  # (n, H, W, 3)
    canvas = torch.ones(rows, columns, height + gap, width + gap, 3)
    canvas.view(rows * columns, height + gap, width + gap, 3)[:n, :height, :width] = colours.cpu()
    canvas = canvas.transpose(1, 2).reshape(rows * (height + gap), columns * (width + gap), 3)
    return canvas[: rows * (height + gap) - gap, : columns * (width + gap) - gap].numpy()


def labelled_columns(columns: dict[str, Tensor], rows: list[str] | None = None) -> Figure:
    """Images in a grid with a title above each column.

    Args:
        columns: images ``(n, 1 or 3, H, W)`` by title, all of one size.
        rows: what to write beside the rows.
    """
    n, _, height, width = next(iter(columns.values())).shape
    count, side = len(columns), 0.85  # inches an image is wide
    images = torch.stack([v.expand(-1, 3, -1, -1) for v in columns.values()], 1).flatten(0, 1)  # (n * count, 3, H, W)
    size = (max(6.0, side * count + 0.3), side * n * height / width + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.imshow(mosaic(images, columns=count))
    axes.xaxis.tick_top()
    axes.set_xticks([(i + 0.5) * (width + 1) - 1 for i in range(count)], list(columns), fontsize="small")
    axes.set_yticks([(i + 0.5) * (height + 1) - 1 for i in range(n)] if rows else [], rows or [], fontsize="small")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
