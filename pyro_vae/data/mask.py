"""Which part of the data is observed."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.errors import InputError

QUADRANTS = {1: "the lower left quadrant", 2: "the left half", 3: "all but the upper right quadrant"}


def quadrant_mask(shape: tuple[int, ...], observed: int, name: str = "data") -> Tensor:
    """The observed quadrants of an image: 1: lower left; 2: left half; 3: all but the upper right.

    Args:
        shape: of one image, (C, H, W).
        observed: how many quadrants, 1 to 3; where a side is odd the middle row is below, the middle column right.
        name: what errors call the data.

    Returns:
        bool ``shape``, True where observed.

    Raises:
        InputError: if the data are no images, or for another number.

    Source: Sohn et al. 2015, NeurIPS 28, table 1.
    """
    if isinstance(observed, bool) or observed not in QUADRANTS:
        raise InputError(f"observed_quadrants must be 1, 2 or 3, got {observed!r}")
    if len(shape) != 3:
        raise InputError(f"{name}: observed_quadrants is for images, but one x has shape {shape}; leave it out")
    middle, half = shape[1] // 2, shape[2] // 2
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, middle:, :half] = True
    if observed >= 2:
        mask[:, :middle, :half] = True
    if observed == 3:
        mask[:, middle:, half:] = True
    return mask


def full_mask(mask: Tensor, x: Tensor, name: str) -> Tensor:
    """A mask in the shape of one datum, or of all the data.

    Args:
        mask: bool, True where observed: ``(*shape,)``; for images also ``(H, W)``; or one per datum, ``(N, *shape)`` or
            for images ``(N, 1, H, W)``.
        x: the data, ``(N, *shape)``.
        name: what errors call them.

    Returns:
        ``(*shape,)`` or ``(N, *shape)``.

    Raises:
        InputError: for another type or shape.
    """
    shape = tuple(x.shape[1:])
    allowed = [shape, (len(x), *shape)]
    if len(shape) == 3:
        allowed += [shape[1:], (1, *shape[1:]), (len(x), 1, *shape[1:])]
    right = f"{name}: mask must be a bool tensor, True where x is observed, of shape " + " or ".join(
        map(str, dict.fromkeys(allowed))
    )
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise InputError(f"{right}; got {mask.dtype if isinstance(mask, Tensor) else type(mask).__name__}")
    if tuple(mask.shape) not in allowed:
        raise InputError(f"{right}; got {tuple(mask.shape)}")
    return mask.expand(*mask.shape[: max(mask.dim() - len(shape), 0)], *shape)
