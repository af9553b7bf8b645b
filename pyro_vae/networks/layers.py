"""Activation functions by name, and helpers for any number of leading batch dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError, positive, unknown


def beside(*features: Tensor) -> Tensor:
    """Features ``(..., D_i)`` whose leading shapes broadcast, one beside the other: ``(..., sum of D_i)``.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import beside
        >>> beside(torch.zeros(7, 5, 2), torch.zeros(3, 1, 1, 4)).shape
        torch.Size([3, 7, 5, 6])
    """
    shape = torch.broadcast_shapes(*(f.shape[:-1] for f in features))
    return torch.cat([f.expand(*shape, f.shape[-1]) for f in features], -1)


def apply_batched(fn: Callable[[Tensor], Tensor], x: Tensor, event_dim: int) -> Tensor:
    """Apply a function of one batch dimension to a tensor with any number of them, none included.

    Args:
        fn: maps ``(batch, *event)`` to ``(batch, *out_event)``.
        x: ``(*leading, *event)``; copied only where its leading dimensions can't be viewed as one.
        event_dim: how many trailing dimensions are the event.

    Returns:
        ``(*leading, *out_event)``.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import apply_batched
        >>> pool = torch.nn.AvgPool2d(2)
        >>> apply_batched(pool, torch.zeros(7, 5, 3, 8, 8), event_dim=3).shape
        torch.Size([7, 5, 3, 4, 4])
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


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "leaky_relu_tenth": partial(nn.LeakyReLU, 0.1),  # the slope of the ladder VAE's code
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
}


def activation(name: str) -> nn.Module:
    """A new activation module.

    Args:
        name: one of ``ACTIVATIONS``.

    Raises:
        InputError: if the name is unknown; the message has the nearest one.

    Example:
        >>> from pyro_vae.networks import activation
        >>> activation("elu")
        ELU(alpha=1.0)
    """
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def check_sizes(who: str, dropout: float, **sizes: int) -> None:
    """Check what many networks have: sizes, by argument, and dropout.

    Args:
        who: the class, for the message.
        dropout: a probability below 1.
        **sizes: positive integers.

    Raises:
        InputError: names the class and the argument.
    """
    for name, value in sizes.items():
        positive(f"{who}: {name}", value)
    if not 0 <= dropout < 1:
        raise InputError(f"{who}: dropout must be a probability below 1, got {dropout}")


class FeatureNorm(nn.BatchNorm1d):
    r"""(h - mean) / sqrt(variance + eps) * gain + bias, unit by unit.

    In training mode mean and variance are those of all leading dimensions together (data and particles). In evaluation
    mode they are the running ones, which ``fit`` recomputes over the training data before it measures or returns.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167.
    """

    def forward(self, h: Tensor) -> Tensor:
        """Normalize ``(..., num_features)``."""
        return apply_batched(super().forward, h, 1)
