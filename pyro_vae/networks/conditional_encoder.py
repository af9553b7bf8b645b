"""An encoder that sees data and a condition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.networks.factory import make_encoder


class ConditionalEncoder(nn.Module):
    """``(..., *data_shape)`` and ``(..., dim)`` to ``(..., out_dim)``.

    ``mlp``: the condition is appended to the flattened data; ``conv``: each of its numbers is a constant plane beside
    the image's channels.

    Args:
        kind: ``"mlp"`` or ``"conv"``.
        data_shape: shape of one datum.
        dim: features of the condition.
        hidden_dims: widths of the layers from data to features (conv: channels).
        out_dim: number of features.
        activation: name of the activation.

    Raises:
        InputError: if the kind or activation is unknown, or the shape doesn't suit the kind.
    """

    def __init__(
        self,
        kind: str,
        data_shape: Sequence[int],
        dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        channels, *rest = data_shape
        self.rank, self.planes = len(data_shape), kind != "mlp"
        joined = (channels + dim, *rest) if self.planes else (math.prod(data_shape) + dim,)
        self.encoder = make_encoder(kind, joined, hidden_dims, out_dim, activation)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """The features ``(..., out_dim)``."""
        if self.planes:
            h = condition.reshape(*condition.shape, *(1,) * (self.rank - 1))  # (..., dim, 1, 1)
            h = h.expand(*condition.shape, *x.shape[x.dim() - self.rank + 1 :])  # (..., dim, H, W)
            return self.encoder(torch.cat([x, h], -self.rank))
        return self.encoder(torch.cat([x.flatten(-self.rank), condition], -1))
