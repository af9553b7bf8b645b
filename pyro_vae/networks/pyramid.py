"""Encoder and decoder of the discrete VAE: bottleneck residual networks, widest where the grid is coarsest."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from pyro_vae.errors import positive
from pyro_vae.networks.grids import CONV, grid_shape
from pyro_vae.networks.layers import apply_batched, check_event_shape
from pyro_vae.networks.mlp import set_bias_

POOL = {1: functional.max_pool1d, 2: functional.max_pool2d}


class BottleneckBlock(nn.Module):
    """h <- S h + gain F(h), four convolutions (each after a ReLU) through a quarter of the width.

    Args:
        rank: of the grid, 1 or 2.
        before, after: channels; S is the identity if they are equal, else a 1x1 convolution.
        gain: a small constant, so that a deep stack is close to its shortcuts at first.
        kernels: of the four convolutions.
    """

    def __init__(self, rank: int, before: int, after: int, gain: float, kernels: Sequence[int]) -> None:
        super().__init__()
        hidden = max(after // 4, 1)
        widths = (before, hidden, hidden, hidden, after)
        layers: list[nn.Module] = []
        for i, kernel in enumerate(kernels):
            layers += [nn.ReLU(), CONV[rank](widths[i], widths[i + 1], kernel, padding=kernel // 2)]
        self.branch, self.gain = nn.Sequential(*layers), gain
        self.shortcut = nn.Identity() if before == after else CONV[rank](before, after, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(batch, before, *grid)`` to ``(batch, after, *grid)``."""
        return self.shortcut(h) + self.gain * self.branch(h)


class _Group(nn.Sequential):
    """Blocks of one width."""

    def __init__(
        self, rank: int, before: int, after: int, num_blocks: int, gain: float, kernels: Sequence[int]
    ) -> None:
        super().__init__(
            *(BottleneckBlock(rank, before if i == 0 else after, after, gain, kernels) for i in range(num_blocks))
        )


class PyramidEncoder(nn.Module):
    """A 7x7 convolution, groups of bottleneck blocks with max-pooling between them, and a 1x1 convolution.

    ``(..., C, *sides)`` to ``(..., out_channels, *grid)``; the grid has ``2 ** -halvings`` of the sides. Group i of
    halvings + 1 has ``2 ** i`` times the channels.

    Args:
        in_shape: (C, height, width) or (C, length).
        out_channels: of the output.
        channels: of the first group.
        halvings: how often the sides are halved; there is a group more.
        num_blocks: in each group.

    Raises:
        InputError: if there is no block or channel, or the sides are no multiples of ``2 ** halvings``.

    Source: Ramesh et al. 2021, arXiv:2102.12092, appendix A.2.
    """

    def __init__(
        self, in_shape: Sequence[int], out_channels: int, channels: int, halvings: int = 3, num_blocks: int = 2
    ) -> None:
        super().__init__()
        positive("channels", channels)
        positive("num_blocks", num_blocks)
        self.in_shape, self.rank = tuple(in_shape), len(in_shape) - 1
        self.out_shape = (out_channels, *grid_shape(in_shape, halvings, "encoder"))
        rank, gain = self.rank, ((halvings + 1) * num_blocks) ** -2
        widths = [channels, *(channels * 2**i for i in range(halvings + 1))]  # before the first group, after each
        self.first = CONV[rank](self.in_shape[0], channels, 7, padding=3)
        pairs = itertools.pairwise(widths)
        self.groups = nn.ModuleList(_Group(rank, a, b, num_blocks, gain, (3, 3, 3, 1)) for a, b in pairs)
        self.last = CONV[rank](widths[-1], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., *in_shape)`` to ``(..., *out_shape)``.

        Raises:
            InputError: if x has another trailing shape.
        """
        check_event_shape(x, self.in_shape, "encoder")
        return apply_batched(self._encode, x, self.rank + 1)

    def _encode(self, x: Tensor) -> Tensor:
        h = self.first(x)  # (batch, channels, *sides)
        for i, group in enumerate(self.groups):
            h = group(POOL[self.rank](h, 2) if i else h)
        return self.last(h.relu())


class PyramidDecoder(nn.Module):
    """The mirror of :class:`PyramidEncoder`: ``(..., in_channels, *grid)`` to ``(..., *out_shape)``.

    Groups of bottleneck blocks, the widest first, with nearest-neighbour doubling between them; the first and the last
    convolution are 1x1.

    Args:
        in_channels: of the grid.
        out_shape: ``(channels, *sides)``.
        channels: of the last group.
        doublings, num_blocks: as halvings and blocks of the encoder.

    Raises:
        InputError: as the encoder.
    """

    def __init__(
        self, in_channels: int, out_shape: Sequence[int], channels: int, doublings: int = 3, num_blocks: int = 2
    ) -> None:
        super().__init__()
        positive("channels", channels)
        positive("num_blocks", num_blocks)
        self.out_shape, self.rank = tuple(out_shape), len(out_shape) - 1
        self.in_shape = (in_channels, *grid_shape(out_shape, doublings, "decoder"))
        rank, gain = self.rank, ((doublings + 1) * num_blocks) ** -2
        widths = [in_channels, *(channels * 2**i for i in reversed(range(doublings + 1)))]
        pairs = itertools.pairwise(widths)
        self.groups = nn.ModuleList(_Group(rank, a, b, num_blocks, gain, (1, 3, 3, 3)) for a, b in pairs)
        self.last = CONV[rank](channels, self.out_shape[0], 1)

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(..., *in_shape)`` to ``(..., *out_shape)``.

        Raises:
            InputError: if z has another trailing shape.
        """
        check_event_shape(z, self.in_shape, "decoder")
        return apply_batched(self._decode, z, self.rank + 1)

    def _decode(self, h: Tensor) -> Tensor:
        for i, group in enumerate(self.groups):
            h = group(functional.interpolate(h, scale_factor=2.0, mode="nearest") if i else h)
        return self.last(h.relu())

    def set_output_bias(self, bias: Tensor) -> None:
        """Set the bias of the output's channels to the mean over positions of a map ``out_shape``.

        Raises:
            InputError: if it has another shape.
        """
        set_bias_(self.last.bias, bias, self.out_shape)
