"""What the networks that compute position by position share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def transposed(weight: Tensor) -> Tensor:
    """A layer's weight ``(out, ...)`` as a matrix ``(..., out)`` for rows from the left, a copy without a gradient."""
    return weight.detach().flatten(1).T.contiguous()


class HeadSteps:
    """B relu(A relu(x) + a) + b of vectors x.

    Args:
        head: relu, a convolution of side 1, relu, and another one.
    """

    def __init__(self, head: nn.Sequential) -> None:
        self.maps = [(transposed(head[i].weight), head[i].bias.detach()) for i in (1, 3)]

    def __call__(self, x: Tensor) -> Tensor:
        """Logits ``(batch, K)`` of x ``(batch, channels)``."""
        (first, first_bias), (second, second_bias) = self.maps
        return torch.addmm(second_bias, torch.addmm(first_bias, x.relu(), first).relu_(), second)
