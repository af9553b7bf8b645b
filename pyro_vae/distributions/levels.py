"""The support of quantized grey data: K equally spaced levels on [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

TOLERANCE = 1e-6  # absolute: room for a few roundings in float32, none for another grid


class Levels(Constraint):
    """Values k / (num_levels - 1), k = 0 ... num_levels - 1, up to rounding (1e-6).

    Args:
        num_levels: K, at least 2; 256 for bytes.
    """

    is_discrete = True
    event_dim = 0

    def __init__(self, num_levels: int) -> None:
        self.num_levels = num_levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is one of the levels; False for NaN."""
        steps = self.num_levels - 1
        nearest = (value * steps).round().clamp(0, steps) / steps
        return (value - nearest).abs() <= TOLERANCE

    def __repr__(self) -> str:
        """The levels, for messages."""
        return f"Levels(k/{self.num_levels - 1}, k = 0..{self.num_levels - 1})"


def level_index(value: Tensor, num_levels: int) -> Tensor:
    """The index of the level nearest to a value in [0, 1], as an integer tensor of the value's shape."""
    return (value * (num_levels - 1)).round().long().clamp(0, num_levels - 1)


def level_value(index: Tensor, num_levels: int, dtype: torch.dtype) -> Tensor:
    """The value k / (num_levels - 1) of level k."""
    return index.to(dtype) / (num_levels - 1)
