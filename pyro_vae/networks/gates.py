"""Gated units, and what they are given beside their input."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def gate(x: Tensor) -> Tensor:
    """tanh(a) * sigmoid(b) of ``x = (a, b)``: ``(batch, 2 * channels, *grid)`` to ``(batch, channels, *grid)``.

    Source: van den Oord et al. 2016, arXiv:1606.05328.
    """
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


def pointwise(in_channels: int, out_channels: int, rank: int, bias: bool = True) -> nn.Conv1d | nn.Conv2d:
    """A linear map at every position of a grid: a convolution with a kernel of side 1."""
    return (nn.Conv1d if rank == 1 else nn.Conv2d)(in_channels, out_channels, 1, bias=bias)


class GateCondition(nn.Module):
    """x + V y + W f: what a label y and features f add to a gate's input.

    Args:
        width: channels of the gate's input.
        rank: of the grid, 1 or 2.
        num_classes: of the label; None: there is no label.
        features: channels of the features; None: there are no features.
    """

    def __init__(self, width: int, rank: int, num_classes: int | None, features: int | None) -> None:
        super().__init__()
        self.label = None if num_classes is None else nn.Embedding(num_classes, width)
        self.features = None if features is None else pointwise(features, width, rank, bias=False)
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.1)  # a gate's input should stay of order 1

    def forward(self, x: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """Add what the condition has.

        Args:
            x: ``(batch, width, *grid)``.
            condition: "y", labels ``(batch,)``, and "features", ``(batch, channels, *grid)``, as far as there are any.
        """
        if self.label is not None:
            label = self.label(condition["y"])  # (batch, width)
            x = x + label.reshape(*label.shape, *[1] * (x.dim() - 2))
        if self.features is not None:
            x = x + self.features(condition["features"])
        return x
