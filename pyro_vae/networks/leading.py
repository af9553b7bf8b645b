"""Any number of leading batch dimensions for functions that know only one."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from pyro_vae.errors import InputError


def apply_batched(fn: Callable[[Tensor], Tensor], x: Tensor, event_dim: int) -> Tensor:
    """Apply a function of one batch dimension to a tensor with any number of them, none included.

    Args:
        fn: maps ``(batch, *event)`` to ``(batch, *out_event)``.
        x: ``(*leading, *event)``; copied only where its leading dimensions can't be viewed as one.
        event_dim: how many trailing dimensions are the event.

    Returns:
        ``(*leading, *out_event)``.
    """
    split = x.ndim - event_dim
    if split == 1:
        return fn(x)
    leading, event = x.shape[:split], x.shape[split:]
    y = fn(x.reshape(math.prod(leading), *event))
    return y.reshape(*leading, *y.shape[1:])


def check_event_shape(x: Tensor, expected: tuple[int, ...], who: str) -> None:
    """Check the trailing shape of a network's input.

    Raises:
        InputError: if ``x`` is not ``(..., *expected)``.
    """
    rank = len(expected)
    if x.ndim >= rank and tuple(x.shape[x.ndim - rank :]) == expected:
        return
    what = "images" if rank == 3 else "data" if rank > 1 else "vectors"
    got = ", ".join(str(int(n)) for n in x.shape[max(x.ndim - rank, 0) :])
    dots = "..., " if x.ndim > rank else ""
    raise InputError(f"{who} expects {what} of shape {expected}, got ({dots}{got})")
