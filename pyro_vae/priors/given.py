"""The condition of a convolutional prior: the label as it is, coarser codes as features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.networks.coarser import CoarserCodes
from pyro_vae.priors.base import CodeGrid


class GivenFeatures(nn.Module):
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
