"""Logits whose distribution over given values has a wanted mean: for the bias of a decoder's output."""

from __future__ import annotations

import torch
from torch import Tensor

EDGE = 1e-3  # means are kept this far, as a part of the range, from the least and the greatest value


def invert_monotone(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The x at which an increasing function, given by points on it, takes the target values.

    Args:
        x: places, ``(n,)``.
        y: values there, increasing, ``(n,)``.
        target: values wanted, any shape, within the range of y.

    Returns:
        places of the target's shape, by linear interpolation.
    """
    right = torch.searchsorted(y, target).clamp(1, len(y) - 1)
    left = right - 1
    return x[left] + (x[right] - x[left]) * (target - y[left]) / (y[right] - y[left])


def tilted_logits(values: Tensor, mean: Tensor) -> Tensor:
    """The distribution of greatest entropy on the values with the given mean: logits_k = lambda * values_k.

    Args:
        values: at least two, increasing, ``(K,)``.
        mean: the mean wanted, any shape; clipped to stay 0.1 % of the range away from the extreme values.

    Returns:
        logits of mean zero over the values, ``(K, *mean.shape)``, of the mean's type and device.
    """
    values = values.to("cpu", torch.float64)
    wanted = mean.detach().to("cpu", torch.float64)
    span = values[-1] - values[0]
    position = (values - values[0]) / span  # (K,) in [0, 1]
    half = torch.linspace(0, 10, 2001, dtype=torch.float64).expm1()  # 0 ... 22025, relative steps of 0.5 %
    strength = torch.cat([-half.flip(0)[:-1], half])
    reached = torch.softmax(strength[:, None] * position, -1) @ position
    reached, first = torch.unique(reached, return_inverse=True)  # it is flat, in floating point, at the ends
    strength = torch.zeros_like(reached).scatter(0, first, strength)
    tilt = invert_monotone(strength, reached, ((wanted - values[0]) / span).clamp(EDGE, 1 - EDGE))
    centred = (position - position.mean()).reshape(-1, *[1] * wanted.ndim)
    return (centred * tilt).to(mean)
