"""Gated convolutions: units that take labels and features, and a layer of a PixelCNN without a blind spot."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pyro_vae.errors import InputError

Condition = Mapping[str, Tensor]


def transposed(weight: Tensor) -> Tensor:
    """A layer's weight ``(out, ...)`` as a matrix ``(..., out)`` for rows from the left, a copy without a gradient."""
    return weight.detach().flatten(1).T.contiguous()


def gate(x: Tensor) -> Tensor:
    """tanh(a) * sigmoid(b) of ``x = (a, b)``: ``(batch, 2 * channels, *grid)`` to ``(batch, channels, *grid)``.

    Source: van den Oord et al. 2016, arXiv:1606.05328.
    """
    a, b = x.chunk(2, dim=1)
    return product(a, b)


def product(a: Tensor, b: Tensor) -> Tensor:
    """tanh(a) * sigmoid(b), with tanh(a) = 2 sigmoid(2a) - 1: torch's tanh takes ten times its sigmoid's time."""
    return (2 * torch.sigmoid(2 * a) - 1) * torch.sigmoid(b)


def pointwise(in_channels: int, out_channels: int, rank: int, bias: bool = True) -> nn.Conv1d | nn.Conv2d:
    """A linear map at every position of a grid: a convolution with a kernel of side 1."""
    return (nn.Conv1d if rank == 1 else nn.Conv2d)(in_channels, out_channels, 1, bias=bias)


def check_kernel(name: str, size: int) -> None:
    """Check a kernel's side.

    Raises:
        InputError: if it is even or below 3.
    """
    if size < 3 or size % 2 == 0:
        raise InputError(f"{name} must be odd and at least 3, got {size}")


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


class GatedLayer(nn.Module):
    r"""A layer of both stacks: u = W^v * v, v' = gate(u + c^v), h' = h + R gate(W^h * h + M u + c^h).

    With ``across_gated`` M v' is in the place of M u, half the work, and a last layer, which has no v', adds u itself.

    Args:
        in_channels: of v and h before the layer.
        channels: of v' and h'; the same but for a first layer.
        kernel: k.
        num_classes, features: of the label and of the features that the gates are given.
        dropout: of the horizontal gate's output, in training.
        first: mask A and no residual connection.
        last: no v' is made, as no layer would use it.
        across_gated: M sees what the vertical stack says after its gate.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        num_classes: int | None,
        features: int | None,
        dropout: float,
        first: bool,
        last: bool,
        across_gated: bool = False,
    ) -> None:
        super().__init__()
        self.first, self.reach = first, kernel // 2
        near = self.reach if first else self.reach + 1  # rows and columns: without or with the own one
        self.vertical = nn.Conv2d(in_channels, 2 * channels, (near, kernel))
        self.horizontal = nn.Conv2d(in_channels, 2 * channels, (1, near))
        self.across_gated = across_gated
        across = channels if across_gated else 2 * channels
        self.across = None if across_gated and last else nn.Conv2d(across, 2 * channels, 1, bias=False)  # M
        self.residual = pointwise(channels, channels, 2, bias=False)
        self.vertical_condition = None if last else GateCondition(2 * channels, 2, num_classes, features)
        self.horizontal_condition = GateCondition(2 * channels, 2, num_classes, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, v: Tensor, h: Tensor, condition: Condition) -> tuple[Tensor | None, Tensor]:
        """v' and h', ``(batch, channels, height, width)``, of v and h ``(batch, in_channels, height, width)``."""
        reach, cut = self.reach, -1 if self.first else 0  # mask A: the own row or column is cut off
        u = self.vertical(pad(v, (reach, reach, reach, cut)))
        above = self.above(u, condition)
        s = self.horizontal(pad(h, (reach, cut))) + self.from_above(u, above)
        z = self.residual(self.dropout(gate(self.horizontal_condition(s, condition))))
        return above, z if self.first else h + z

    def above(self, u: Tensor, condition: Condition) -> Tensor | None:
        """v' = gate(u + c^v)."""
        return None if self.vertical_condition is None else gate(self.vertical_condition(u, condition))

    def from_above(self, u: Tensor, above: Tensor | None) -> Tensor:
        """What the horizontal gates are given of the rows above: M u, or M v'."""
        if self.across is None:
            return u
        return self.across(above if self.across_gated else u)


class GatedStack(nn.ModuleList):
    """Gated layers one after another: at each place what those before it say, row by row, as far as they are in reach.

    A channel of ones beside the input tells it from the padding.

    Args:
        in_channels: of the input.
        channels: of the features.
        num_layers: how many layers.
        kernel: k of the first layer, odd: it sees k // 2 rows above and columns to both sides, and to the left.
        inner_kernel: of the layers after it.
        features: of what all gates are given; None: nothing.
        dropout: of the horizontal gates' outputs, in training.

    Attributes:
        reach: how many rows and columns away a place is still seen.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_layers: int,
        kernel: int,
        inner_kernel: int,
        features: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            GatedLayer(
                channels if layer else in_channels + 1,
                channels,
                inner_kernel if layer else kernel,
                num_classes=None,
                features=features,
                dropout=dropout,
                first=layer == 0,
                last=layer == num_layers - 1,
                across_gated=True,
            )
            for layer in range(num_layers)
        )
        self.reach = kernel // 2 + (num_layers - 1) * (inner_kernel // 2)

    def forward(self, x: Tensor, condition: Condition = MappingProxyType({})) -> Tensor:
        """Features ``(batch, channels, height, width)`` of ``(batch, in_channels, height, width)``."""
        v = h = torch.cat([x, torch.ones_like(x[:, :1])], 1).contiguous(memory_format=torch.channels_last)
        for layer in self:
            v, h = layer(v, h, condition)
        return h

    def steps(self, batch: int, width: int) -> GatedStackSteps:
        """The memory of so many grids of that width, of which nothing is known yet."""
        return GatedStackSteps(self, batch, width)


class GatedStackSteps:
    """A stack's features of one place after another; nothing is computed twice.

    The vertical stack is computed once a row, the horizontal one once a place.

    Args:
        stack: with the weights that it has now.
        batch: how many grids.
        width: of the grid.
    """

    def __init__(self, stack: GatedStack, batch: int, width: int) -> None:
        layers = [*stack]
        weight = layers[0].vertical.weight.detach()
        # the present row of the input beside ones, and of h_1, …, h_{L-1}, with zeros to its left; of h_L one place
        rows = [weight.new_zeros(batch, layer.reach + width, layer.vertical.in_channels) for layer in layers]
        self.last = weight.new_zeros(batch, layers[0].residual.out_channels)
        own = [row[:, layer.reach :] for layer, row in zip(layers, rows, strict=True)]
        places = [[*row.unbind(1)] for row in own] + [[self.last] * width]  # (batch, channels) each
        self.x, self.ones = places[0], own[0][..., -1]
        self.x_row = own[0].movedim(-1, 1).unsqueeze(2)  # (batch, in_channels + 1, 1, width)
        self.layers = [
            GatedLayerSteps(layer, row, here, there)
            for layer, row, here, there in zip(layers, rows, places, places[1:], strict=False)
        ]

    def put(self, column: int, values: Tensor) -> None:
        """Take the input at a column of the present row, ``(batch, in_channels)``."""
        self.x[column][:, :-1] = values

    def begin(self, condition: Condition = MappingProxyType({})) -> None:
        """Begin a row, given the features of its places, if there are any, ``(batch, features, 1, width)``."""
        v = self.x_row  # still the row above; zeros above the first
        for layer in self.layers:
            v = layer.begin(v, condition)
        self.ones.fill_(1.0)

    def step(self, column: int) -> Tensor:
        """The features at a column, ``(batch, channels)``, of the places before it; overwritten by the next."""
        for layer in self.layers:
            layer.step(column)
        return self.last


class GatedLayerSteps:
    """One layer's memory.

    Args:
        layer: with the weights that it has now.
        row: features h that it reads, ``(batch, reach + width, in_channels)``.
        here: views of them, one a column, ``(batch, in_channels)``.
        there: where its output goes, one a column, ``(batch, channels)``.
    """

    def __init__(self, layer: GatedLayer, row: Tensor, here: list[Tensor], there: list[Tensor]) -> None:
        self.layer, self.here, self.there = layer, here, there
        batch, in_channels = len(row), row.shape[2]
        channels = layer.residual.out_channels
        (near, kernel), width = layer.vertical.kernel_size, len(here)
        self.above = row.new_zeros(batch, near, width + 2 * layer.reach, in_channels)  # rows of v
        self.patches = self.above.unfold(2, kernel, 1).permute(0, 2, 1, 4, 3)  # (batch, width, near, kernel, channels)
        self.vertical = transposed(layer.vertical.weight.movedim(1, -1))
        self.added = row.new_empty(width, batch, 2 * channels)  # to the horizontal gates of the row
        self.windows = [row[:, j : j + near].view(batch, near * in_channels) for j in range(width)]
        self.horizontal = transposed(layer.horizontal.weight.movedim(1, -1))
        self.residual = transposed(layer.residual.weight)
        self.gates = row.new_empty(batch, 2 * channels)
        self.a, self.b = self.gates.chunk(2, dim=1)
        self.z = row.new_empty(batch, channels)

    def begin(self, v: Tensor, condition: Condition) -> Tensor | None:
        """Take a row of v, ``(batch, in_channels, 1, width)``, give the next layer's; keep what the row's gates get."""
        layer, reach = self.layer, self.layer.reach
        self.above[:, :-1] = self.above[:, 1:].clone()
        self.above[:, -1, reach:-reach] = v.squeeze(2).mT
        u = torch.addmm(layer.vertical.bias, self.patches.reshape(-1, len(self.vertical)), self.vertical)
        u = u.view(len(v), 1, len(self.added), u.shape[1]).movedim(-1, 1)  # (batch, 2 * channels, 1, width)
        above = layer.above(u, condition)
        added = layer.from_above(u, above) + layer.horizontal.bias[:, None, None]
        self.added.copy_(layer.horizontal_condition(added, condition).squeeze(2).permute(2, 0, 1))
        return above

    def step(self, column: int) -> Tensor:
        """h' at a column, ``(batch, channels)``; it is where the next layer reads it."""
        torch.addmm(self.added[column], self.windows[column], self.horizontal, out=self.gates)
        torch.mul(self.a.tanh_(), self.b.sigmoid_(), out=self.z)
        if self.layer.first:
            return torch.mm(self.z, self.residual, out=self.there[column])
        return torch.addmm(self.here[column], self.z, self.residual, out=self.there[column])
