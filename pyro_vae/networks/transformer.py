"""Transformer blocks: attention that looks back only, and which positions see which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, cat, nn
from torch.nn.functional import gelu, pad, scaled_dot_product_attention

from pyro_vae.errors import InputError, unknown

Attention = Literal["full", "sparse"]
Kind = Literal["full", "row", "column", "window"]


def layer_kinds(attention: Attention, num_layers: int) -> list[Kind]:
    """What the layers of a transformer see, the first one first.

    Sparse: layer i (from 1) sees its column where (i - 2) mod 4 = 0, else about a row back; the last one sees a window.

    Raises:
        InputError: for another name.

    Source: Ramesh et al. 2021, arXiv:2102.12092, appendix B.1.
    """
    if attention == "full":
        return ["full"] * num_layers
    if attention == "sparse":
        return [
            "window" if i == num_layers else "column" if (i - 2) % 4 == 0 else "row" for i in range(1, num_layers + 1)
        ]
    raise unknown("attention", attention, ("full", "sparse"))


def grid_mask(kind: Kind, shape: Sequence[int], window: int) -> Tensor:
    """The mask ``(N, N)`` of one kind over a grid of N positions; only full ones are there for sequences."""
    if kind == "full":
        return causal_mask(shape[0] * (shape[1] if len(shape) == 2 else 1))
    if len(shape) != 2:
        raise InputError(f"attention 'sparse' needs a grid (height, width), got {tuple(shape)}: choose 'full'")
    if kind == "window":
        return window_mask(shape, window)
    return row_mask(shape) if kind == "row" else column_mask(shape)


def causal_mask(length: int) -> Tensor:
    """Position i sees all j <= i, ``(length, length)``."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def row_mask(shape: Sequence[int]) -> Tensor:
    """Position i sees i - width … i, back over one full row to the position right above it, ``(N, N)``."""
    back = _back(shape)
    return (back >= 0) & (back <= shape[1])


def column_mask(shape: Sequence[int]) -> Tensor:
    """Position i sees those above it in its column, and itself, ``(N, N)``."""
    back = _back(shape)
    return (back >= 0) & (back % shape[1] == 0)


def window_mask(shape: Sequence[int], window: int) -> Tensor:
    """Position i sees the j <= i in the square of side ``window`` around it, ``(N, N)``, as a masked convolution does.

    Raises:
        InputError: if the side is even, or less than 3.
    """
    if window < 3 or window % 2 == 0:
        raise InputError(f"window must be odd and at least 3, got {window}")
    place = torch.arange(shape[0] * shape[1])
    row, column = place // shape[1], place % shape[1]
    near = [(axis[:, None] - axis).abs() <= window // 2 for axis in (row, column)]
    return near[0] & near[1] & (_back(shape) >= 0)


def _back(shape: Sequence[int]) -> Tensor:
    """i - j, ``(N, N)``."""
    place = torch.arange(shape[0] * shape[1])
    return place[:, None] - place


def after_prompt(mask: Tensor, given: int) -> Tensor:
    """The same positions after ``given`` tokens that all of them see: ``(N, N)`` to ``(N, given + N)``."""
    return torch.cat([mask.new_ones(len(mask), given), mask], 1)


def prompt_mask(text: int, others: int) -> Tensor:
    """What the given tokens see, ``(P, P)``: those of the text what is before them in it, and the others all there are.

    So the text's own probabilities depend on nothing but the text.
    """
    mask = torch.ones(text + others, text + others, dtype=torch.bool)
    mask[:text] = False
    mask[:text, :text] = causal_mask(text)
    return mask


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


class TransformerBlock(nn.Module):
    r"""x' = x + W_o attention(norm x), x'' = x' + W_2 gelu(W_1 norm x'): normalization before each part.

    Maps back to x have no bias (the next maps have one), and start smaller by 1 / sqrt(2 num_layers).

    Args:
        width: of x.
        heads: the width is divided among them.
        num_layers: how many layers there are.
        dropout: of what is added to x, in training.

    Raises:
        InputError: if the heads cannot share the width.

    Source: Radford et al. 2019 (GPT-2); Vaswani et al. 2017, arXiv:1706.03762.
    """

    def __init__(self, width: int, heads: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise InputError(f"heads must divide the width, {width}, got {heads}")
        self.heads = heads
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.out, self.down):
            layer.weight.data.mul_((2 * num_layers) ** -0.5)

    def forward(self, x: Tensor, mask: Tensor | None, given: Tensor | None = None) -> Tensor:
        """x'' of N tokens.

        Args:
            x: ``(batch, N, width)``.
            mask: bool ``(N, P + N)``; None: each sees those before it, and itself (P = 0).
            given: keys and values of P tokens before them, ``(batch, 2, heads, P, d)``.
        """
        q, k, v = self.project(x)
        if given is not None:
            k, v = cat([given[:, 0], k], 2), cat([given[:, 1], v], 2)  # (batch, heads, P + N, d)
        return self.add(x, q, k, v, mask)

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values ``(3, batch, heads, N, d)`` of x ``(batch, N, width)``."""
        return self.queries_keys_values(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def add(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, drop: bool = True) -> Tensor:
        """x'', of x and its queries, and all keys and values; ``drop``: with dropout, in training."""
        dropout = self.dropout if drop else nn.Identity()
        seen = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + dropout(self.out(seen.transpose(1, 2).flatten(2)))
        return x + dropout(self.down(gelu(self.up(self.mlp_norm(x)))))
