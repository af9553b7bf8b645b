"""Data as pictures: which shapes are images, and many of them in one array."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether data of a shape can be drawn as images: (H, W), or (C, H, W) with one or three channels."""
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


def is_curve(shape: tuple[int, ...]) -> bool:
    """Whether data of a shape can be drawn as a line: a vector."""
    return len(shape) == 1


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
