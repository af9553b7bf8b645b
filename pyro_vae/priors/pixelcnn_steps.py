"""A gated PixelCNN position by position, from what it has computed before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import relu

from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.networks.causal_attention import CausalAttention

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
        places = [[*row[:, reach:].unbind(1)] for row in rows] + [[self.last] * self.width]  # (batch, channels) each
        self.x, self.x_row = places[0], rows[0][:, reach:].movedim(-1, 1).unsqueeze(2)  # (batch, channels, 1, width)
        self.layers = [
            LayerSteps(layer, row, here, there)
            for layer, row, here, there in zip(prior.layers, rows, places, places[1:], strict=False)
        ]
        self.attention = [a.cache(batch) if isinstance(a, CausalAttention) else None for a in prior.attention]
        self.head = [(transposed(prior.head[i].weight.detach()), prior.head[i].bias.detach()) for i in (1, 3)]

    def __call__(self, position: int, codes: Tensor) -> Tensor:
        """Logits ``(batch, K)`` at a position, given codes ``(batch, N)`` of which those before it are known."""
        row, column = divmod(position, self.width)
        if position > 0:
            self.x[column - 1].copy_(self.embedding[codes[:, position - 1]])
        if column == 0:
            self._begin(row)
        for layer, cache in zip(self.layers, self.attention, strict=True):
            h = layer.step(column)
            if cache is not None:
                h.copy_(cache.step(h, position))
        (a, a0), (b, b0) = self.head
        return torch.addmm(b0, torch.addmm(a0, relu(self.last), a).relu_(), b)

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
        batch, columns, channels = row.shape
        near, width = layer.vertical.kernel_size[0], len(here)
        self.above = row.new_zeros(batch, near, width + 2 * layer.reach, channels).movedim(-1, 1)  # rows of v
        self.added = row.new_empty(batch, width, 2 * channels)  # to the horizontal gates of the row
        self.added_here = self.added.unbind(1)  # width times (batch, 2 * channels)
        self.windows = [row[:, j : j + near].flatten(1) for j in range(width)]  # (batch, near * channels), views
        weight = layer.horizontal.weight.detach()  # (2 * channels, channels, 1, near)
        self.horizontal = transposed(weight.movedim(1, -1))  # (near * channels, 2 * channels)
        self.bias = layer.horizontal.bias.detach()
        self.residual = transposed(layer.residual.weight.detach())
        self.gates = row.new_empty(batch, 2 * channels)
        self.a, self.b = self.gates.chunk(2, dim=1)
        self.z = row.new_empty(batch, channels)

    def begin(self, v: Tensor, condition: Condition) -> Tensor | None:
        """Take a row of v, ``(batch, channels, 1, width)``, give the next layer's; keep what the row's gates need."""
        layer, reach = self.layer, self.layer.reach
        self.above[:, :, :-1] = self.above[:, :, 1:].clone()
        self.above[:, :, -1:, reach:-reach] = v
        u = layer.vertical(self.above)  # (batch, 2 * channels, 1, width)
        added = layer.horizontal_condition(layer.across(u), condition)
        torch.add(added.squeeze(2).movedim(1, -1), self.bias, out=self.added)
        return layer.above(u, condition)

    def step(self, column: int) -> Tensor:
        """h' at a column, ``(batch, channels)``; it is where the next layer reads it."""
        torch.addmm(self.added_here[column], self.windows[column], self.horizontal, out=self.gates)
        torch.mul(self.a.tanh_(), self.b.sigmoid_(), out=self.z)
        if self.layer.first:
            return torch.mm(self.z, self.residual, out=self.there[column])
        return torch.addmm(self.here[column], self.z, self.residual, out=self.there[column])


def transposed(weight: Tensor) -> Tensor:
    """A convolution's weight ``(out, ...)`` as a matrix ``(..., out)`` for vectors from the left."""
    return weight.flatten(1).T.contiguous()
