"""Encoder and decoder of VQ-VAEs: convolutional networks between images or signals and grids of features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.networks.layers import apply_batched, check_event_shape
from pyro_vae.networks.mlp import set_bias_

CONV = {1: nn.Conv1d, 2: nn.Conv2d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}


def grid_shape(shape: Sequence[int], halvings: int, who: str) -> tuple[int, ...]:
    """The grid that ``halvings`` stride-2 convolutions make of data ``(C, H, W)`` or ``(C, L)``.

    Raises:
        InputError: if the data are neither, or a side is no multiple of ``2 ** halvings``; says which sizes are.
    """
    sides, factor = tuple(shape[1:]), 2**halvings
    if len(sides) not in CONV:
        raise InputError(f"{who}: codes lie on grids, of images (C, H, W) or signals (C, L); got data {tuple(shape)}")
    if halvings < 0:
        raise InputError(f"{who}: the number of halvings must not be negative, got {halvings}")
    if any(side % factor or side < factor for side in sides):
        near = " x ".join(str(max(round(side / factor), 1) * factor) for side in sides)
        raise InputError(
            f"{who}: data of {' x '.join(map(str, sides))} do not divide into a grid: {halvings} halvings need sides "
            f"that are multiples of {factor}, e.g. {near}"
        )
    return tuple(side // factor for side in sides)


class ResidualStack(nn.Module):
    """h <- h + W_1x1 relu(W_3x3 relu(h)), so often as asked, and a ReLU at the end; ``(batch, channels, *grid)``.

    Args:
        rank: of the grid, 1 or 2.
        channels: of h.
        hidden: channels between the two convolutions.
        num_blocks: how many.
    """

    def __init__(self, rank: int, channels: int, hidden: int, num_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), CONV[rank](channels, hidden, 3, padding=1), nn.ReLU(), CONV[rank](hidden, channels, 1)
            )
            for _ in range(num_blocks)
        )

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(batch, channels, *grid)`` to the same shape."""
        for block in self.blocks:
            h = h + block(h)
        return h.relu()


class GridEncoder(nn.Module):
    """Stride-2 convolutions of width 4 and a residual stack: ``(..., C, *sides)`` to ``(..., channels, *grid)``.

    Args:
        in_shape: (C, height, width) or (C, length).
        channels: of the features; half as many after the first halving, if there are several.
        halvings: each halves the sides; 0: none.
        num_blocks: residual blocks.
        block_channels: channels inside them.

    Raises:
        InputError: if the sides are no multiples of ``2 ** halvings``.

    Source: van den Oord et al. 2017, arXiv:1711.00937, section 4.1; sizes of Razavi et al. 2019, arXiv:1906.00446.
    """

    def __init__(
        self, in_shape: Sequence[int], channels: int, halvings: int, num_blocks: int = 2, block_channels: int = 32
    ) -> None:
        super().__init__()
        self.in_shape, self.rank = tuple(in_shape), len(in_shape) - 1
        self.out_shape = (channels, *grid_shape(in_shape, halvings, "encoder"))
        layers: list[nn.Module] = []
        before = self.in_shape[0]
        for i in range(halvings):
            after = max(channels // 2, 1) if i == 0 and halvings > 1 else channels
            layers += [CONV[self.rank](before, after, 4, stride=2, padding=1), nn.ReLU()]
            before = after
        layers += [CONV[self.rank](before, channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers, ResidualStack(self.rank, channels, block_channels, num_blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., *in_shape)`` to ``(..., *out_shape)``.

        Raises:
            InputError: if x has another trailing shape.
        """
        check_event_shape(x, self.in_shape, "encoder")
        return apply_batched(self.layers, x, self.rank + 1)


class GridDecoder(nn.Module):
    """A residual stack and transposed convolutions: ``(..., D, *grid)`` to ``(..., *out_shape)``.

    Args:
        in_channels: D.
        out_shape: ``(channels, *sides)``, the sides ``2 ** doublings`` times those of the grid.
        channels: of the features; half as many before the last doubling, if there are several.
        doublings: each doubles the sides; 0: none.
        num_blocks: residual blocks.
        block_channels: channels inside them.

    Raises:
        InputError: if the sides are no multiples of ``2 ** doublings``.

    Source: as for :class:`GridEncoder`.
    """

    def __init__(
        self,
        in_channels: int,
        out_shape: Sequence[int],
        channels: int,
        doublings: int,
        num_blocks: int = 2,
        block_channels: int = 32,
    ) -> None:
        super().__init__()
        self.out_shape, self.rank = tuple(out_shape), len(out_shape) - 1
        self.in_shape = (in_channels, *grid_shape(out_shape, doublings, "decoder"))
        layers: list[nn.Module] = [
            CONV[self.rank](in_channels, channels, 3, padding=1),
            ResidualStack(self.rank, channels, block_channels, num_blocks),
        ]
        before = channels
        for i in range(doublings):
            last = i == doublings - 1
            after = self.out_shape[0] if last else max(channels // 2, 1) if i == doublings - 2 else channels
            layers += [TRANSPOSED[self.rank](before, after, 4, stride=2, padding=1), *([] if last else [nn.ReLU()])]
            before = after
        if not doublings:
            layers += [CONV[self.rank](before, self.out_shape[0], 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(..., D, *grid)`` to ``(..., *out_shape)``.

        Raises:
            InputError: if z has another trailing shape.
        """
        check_event_shape(z, self.in_shape, "decoder")
        return apply_batched(self.layers, z, self.rank + 1)

    def set_output_bias(self, bias: Tensor) -> None:
        """Set the bias of the output's channels to the mean over positions of a map ``out_shape``.

        Raises:
            InputError: if it has another shape.
        """
        set_bias_(self.layers[-1].bias, bias, self.out_shape)
