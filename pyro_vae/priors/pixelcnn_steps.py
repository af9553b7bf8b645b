"""A gated PixelCNN position by position, from what it has computed before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.networks.causal_attention import CausalAttention
from pyro_vae.priors.steps import HeadSteps, transposed

if TYPE_CHECKING:
    from pyro_vae.priors.pixelcnn import GatedLayer, GatedPixelCNN


class PixelCNNSteps:
    """Logits of one position after another; nothing is computed twice.

    The vertical stack is computed once a row, for all its columns, from the last ``kernel // 2`` rows of each layer; it
    leaves what it and the condition add to the horizontal gates of the row. The horizontal stack is computed once a
    position, from the features to its left. Attention has the keys and values of all positions before.

    A position costs a layer four small operations that write to memory which was set aside before, through views that
    were made before: at this size it is the number of operations that costs.

    Args:
        prior: the network, with the weights that it has now.
        batch: how many grids.
        condition: what the prior's ``condition`` gave, ``(batch, ...)``.
    """

    def __init__(self, prior: GatedPixelCNN, batch: int, condition: Condition) -> None:
        self.condition, self.width = condition, prior.shape[1]
        self.embedding = prior.embedding.weight.detach()
        reach, channels = prior.layers[0].reach, self.embedding.shape[1]
        # the present row of h_0 = x, h_1, …, h_{L-1}, with zeros to its left; of h_L one position
        rows = [self.embedding.new_zeros(batch, reach + self.width, channels) for _ in prior.layers]
        self.last = self.embedding.new_zeros(batch, channels)
        self.before = self.embedding.new_zeros(batch, channels)  # x one position before
        places = [[*row[:, reach:].unbind(1)] for row in rows] + [[self.last] * self.width]  # (batch, channels) each
        self.x, self.x_row = places[0], rows[0][:, reach:].movedim(-1, 1).unsqueeze(2)  # (batch, channels, 1, width)
        self.layers = [
            LayerSteps(layer, row, here, there)
            for layer, row, here, there in zip(prior.layers, rows, places, places[1:], strict=False)
        ]
        self.attention = [a.cache(batch) if isinstance(a, CausalAttention) else None for a in prior.attention]
        self.head = HeadSteps(prior.head)

    def __call__(self, position: int, codes: Tensor) -> Tensor:
        """Logits ``(batch, K)`` at a position, given codes ``(batch, N)`` of which those before it are known."""
        row, column = divmod(position, self.width)
        if position > 0:
            self.before = self.embedding[codes[:, position - 1]]
            self.x[column - 1].copy_(self.before)
        if column == 0:
            self._begin(row)
        for layer, cache in zip(self.layers, self.attention, strict=True):
            h = layer.step(column)
            if cache is not None:
                h.copy_(cache.step(h, self.before, position))
        return self.head(self.last)

    def _begin(self, row: int) -> None:
        """The vertical stack of a row."""
        condition = dict(self.condition)
        if "features" in condition:
            condition["features"] = condition["features"][:, :, row : row + 1]
        v = self.x_row  # still the row above; zeros above the first
        for layer in self.layers:
            v = layer.begin(v, condition)


class LayerSteps:
    """One layer's memory.

    Args:
        layer: with the weights that it has now.
        row: features h that it reads, ``(batch, reach + width, channels)``.
        here: views of them, one a column, ``(batch, channels)``.
        there: where its output goes, one a column.
    """

    def __init__(self, layer: GatedLayer, row: Tensor, here: list[Tensor], there: list[Tensor]) -> None:
        self.layer, self.here, self.there = layer, here, there
        batch, channels = len(row), row.shape[2]
        (near, kernel), width = layer.vertical.kernel_size, len(here)
        self.above = row.new_zeros(batch, near, width + 2 * layer.reach, channels)  # rows of v
        self.patches = self.above.unfold(2, kernel, 1).permute(0, 2, 1, 4, 3)  # (batch, width, near, kernel, channels)
        self.vertical = transposed(layer.vertical.weight.movedim(1, -1))
        self.across = transposed(layer.across.weight)
        self.added = row.new_empty(width, batch, 2 * channels)  # to the horizontal gates of the row
        self.windows = [row[:, j : j + near].view(batch, near * channels) for j in range(width)]
        self.horizontal = transposed(layer.horizontal.weight.movedim(1, -1))
        self.residual = transposed(layer.residual.weight)
        self.gates = row.new_empty(batch, 2 * channels)
        self.a, self.b = self.gates.chunk(2, dim=1)
        self.z = row.new_empty(batch, channels)

    def begin(self, v: Tensor, condition: Condition) -> Tensor | None:
        """Take a row of v, ``(batch, channels, 1, width)``, give the next layer's; keep what the row's gates need."""
        layer, reach = self.layer, self.layer.reach
        self.above[:, :-1] = self.above[:, 1:].clone()
        self.above[:, -1, reach:-reach] = v.squeeze(2).mT
        u = torch.addmm(layer.vertical.bias, self.patches.reshape(-1, len(self.vertical)), self.vertical)
        added = torch.addmm(layer.horizontal.bias, u, self.across)  # (batch * width, 2 * channels), like u
        added, u = (rows.view(len(v), 1, len(self.added), rows.shape[1]).movedim(-1, 1) for rows in (added, u))
        self.added.copy_(layer.horizontal_condition(added, condition).squeeze(2).permute(2, 0, 1))
        return layer.above(u, condition)

    def step(self, column: int) -> Tensor:
        """h' at a column, ``(batch, channels)``; it is where the next layer reads it."""
        torch.addmm(self.added[column], self.windows[column], self.horizontal, out=self.gates)
        torch.mul(self.a.tanh_(), self.b.sigmoid_(), out=self.z)
        if self.layer.first:
            return torch.mm(self.z, self.residual, out=self.there[column])
        return torch.addmm(self.here[column], self.z, self.residual, out=self.there[column])
