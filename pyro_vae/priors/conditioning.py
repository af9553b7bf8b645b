"""What the gates of convolutional priors are given: the label, and features of coarser codes on the finer grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from pyro_vae.errors import InputError
from pyro_vae.priors.base import CodeGrid


class CoarserCodes(nn.Module):
    """Embed coarser codes, look around at their own resolution, enlarge to the finer grid, add up, look around there.

    The last block matters: nearest neighbours give all the fine positions under one coarse code the same features,
    and what is around tells them which of them they are.

    Args:
        grids: (number of codes, shape) by name; every shape has the rank of the finer one, 1 or 2.
        shape: of the finer grid.
        channels: of the features.
        num_blocks: residual blocks at the coarse resolution.

    Source: the conditioning stack of VQ-VAE-2, Razavi et al. 2019, arXiv:1906.00446.
    """

    def __init__(
        self, grids: Mapping[str, tuple[int, Sequence[int]]], shape: Sequence[int], channels: int, num_blocks: int = 2
    ) -> None:
        super().__init__()
        self.shape, rank = tuple(shape), len(shape)
        self.embeddings = nn.ModuleDict({name: nn.Embedding(k, channels) for name, (k, _) in grids.items()})
        self.blocks = nn.ModuleDict(
            {name: nn.Sequential(*(ResidualBlock(channels, rank) for _ in range(num_blocks))) for name in grids}
        )
        self.last = ResidualBlock(channels, rank)

    def forward(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Features ``(batch, channels, *shape)`` of codes ``(batch, *their shape)`` by name."""
        total: Tensor | None = None
        for name, embedding in self.embeddings.items():
            h = self.blocks[name](embedding(codes[name]).movedim(-1, 1))  # (batch, channels, *coarse)
            h = interpolate(h, size=self.shape, mode="nearest")
            total = h if total is None else total + h
        return self.last(total)


class ResidualBlock(nn.Module):
    """x + W relu(V relu(x)), with V three positions wide, which lie ``dilation`` apart, and W one."""

    def __init__(self, channels: int, rank: int, dilation: int = 1) -> None:
        super().__init__()
        conv = nn.Conv1d if rank == 1 else nn.Conv2d
        self.around = conv(channels, channels, 3, padding=dilation, dilation=dilation)
        self.here = conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, *grid)`` to the same shape."""
        return x + self.here(relu(self.around(relu(x))))


class ContextFeatures(nn.Module):
    """Of a context, what gates take: "y" ``(batch,)`` and "features" ``(batch, channels, *shape)``, if there are any.

    Args:
        coarser: grids of the coarser codes, by name.
        shape: of the finer grid.
        channels: of the features.

    Attributes:
        channels: of the features; None if there are no coarser codes.

    Raises:
        InputError: for coarser codes of another rank, or with more positions along an axis, than the finer grid.
    """

    def __init__(self, coarser: Mapping[str, CodeGrid], shape: Sequence[int], channels: int) -> None:
        super().__init__()
        shape = tuple(shape)
        for name, grid in coarser.items():
            if len(grid.shape) != len(shape):
                raise InputError(
                    f"coarser codes '{name}': their grid {grid.shape} has another rank than the own {shape}"
                )
            if any(theirs > own for theirs, own in zip(grid.shape, shape, strict=True)):
                raise InputError(f"coarser codes '{name}': their grid {grid.shape} is finer than the own, {shape}")
        self.channels = channels if coarser else None
        self.coarser = CoarserCodes(coarser, shape, channels) if coarser else None

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The condition, made once for all layers."""
        condition = {"y": context["y"]} if "y" in context else {}
        if self.coarser is not None:
            condition["features"] = self.coarser(context)
        return condition
