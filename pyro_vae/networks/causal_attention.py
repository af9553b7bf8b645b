"""Self-attention that looks back only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from pyro_vae.errors import InputError


class CausalAttention(nn.Module):
    """h_i + W sum over j <= i of softmax_j(q_i . k_j / sqrt(d)) v_j, positions i, j counted row by row.

    q, k, v are linear in the normalized h and the place, and in x_{j-1}, the datum right before position j. Were they
    made of h alone, which has seen only what its convolutions reach, then the last datum of the row above would be out
    of sight until a position near it.

    Args:
        shape: of the grid, (height, width).
        channels: of h and x.
        heads: the channels are divided among them.

    Raises:
        InputError: if the heads cannot share the channels.

    Source: Chen et al. 2017, arXiv:1712.09763 (PixelSNAIL), where x_j is among the keys of positions after j.
    """

    def __init__(self, shape: Sequence[int], channels: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise InputError(f"attention_heads must divide the {channels} channels, got {heads}")
        self.shape, self.heads = tuple(shape), heads
        self.norm = nn.LayerNorm(channels)
        self.rows, self.columns = (nn.Parameter(0.02 * torch.randn(side, channels)) for side in self.shape)
        self.queries_keys_values = nn.Linear(2 * channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """All positions at once: h and x ``(batch, channels, *shape)`` to the same shape."""
        before = pad(x.flatten(2), (1, -1))  # at i what x has at i - 1; (batch, channels, N)
        q, k, v = self._project(h.flatten(2).mT, before.mT, self.place())  # each (batch, heads, N, d)
        seen = scaled_dot_product_attention(q, k, v, is_causal=True)
        update = self.out(seen.transpose(1, 2).flatten(2))  # (batch, N, channels)
        return h + update.mT.unflatten(2, self.shape)

    def place(self) -> Tensor:
        """Features of the N positions, those of the row plus those of the column, ``(N, channels)``."""
        return (self.rows[:, None] + self.columns).flatten(0, 1)

    def _project(self, h: Tensor, before: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs = torch.cat([self.norm(h) + place, before], -1)  # (batch, N, 2 * channels)
        projected = self.queries_keys_values(inputs)  # (batch, N, 3 * channels)
        q, k, v = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def cache(self, batch: int) -> AttentionCache:
        """An empty memory of keys and values for positions one after another."""
        return AttentionCache(self, batch)


class AttentionCache:
    """Keys and values of the positions so far: position i costs O(i), not O(i^2).

    Args:
        attention: the layer.
        batch: how many grids.
    """

    def __init__(self, attention: CausalAttention, batch: int) -> None:
        self.attention, self.place = attention, attention.place()
        num_positions, channels = self.place.shape
        size = (2, batch, attention.heads, num_positions, channels // attention.heads)
        self.keys, self.values = self.place.new_empty(size)

    def step(self, h: Tensor, before: Tensor, position: int) -> Tensor:
        """The layer's output at a position, ``(batch, channels)``, of h there and x one before; positions in turn."""
        inputs = h.unsqueeze(1), before.unsqueeze(1)  # (batch, 1, channels) each
        q, k, v = self.attention._project(*inputs, self.place[position])  # each (batch, heads, 1, d)
        now = slice(position, position + 1)
        self.keys[:, :, now], self.values[:, :, now] = k, v
        until = position + 1
        seen = scaled_dot_product_attention(q, self.keys[:, :, :until], self.values[:, :, :until])
        return h + self.attention.out(seen.flatten(1))
