"""Clips: given frames, and those that follow them, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.binarization import as_probability
from pyro_vae.data.dataset import Data
from pyro_vae.data.pictures import Pictures
from pyro_vae.errors import InputError

FRAMES = "frames"  # the entry of a batch: those given
SEPARATOR = 2  # pixels, white, between what is given and what follows


class Clips(Pictures):
    """A clip x (T, C, H, W) after given ``frames`` (T0, C, H, W) as one wide picture: given | what follows.

    Example:
        >>> import torch
        >>> from pyro_vae.data.clips import Clips
        >>> Clips().images(torch.rand(5, 4, 3, 8, 8), {"frames": torch.rand(5, 2, 3, 8, 8)}).shape
        torch.Size([5, 3, 8, 50])
    """

    kind = "clip"

    def __eq__(self, other: object) -> bool:
        """There is one kind of them."""
        return isinstance(other, Clips)

    __hash__ = None  # type: ignore[assignment]

    def check(self, data: Data) -> None:
        """X and ``frames`` of every part are frames of one size, grey or RGB."""
        for split in data.splits.values():
            if FRAMES not in split.columns:
                raise InputError(f"{split.name}: clips have '{FRAMES}' beside x, those given before; these have none")
            x, frames = split.shape, split.columns[FRAMES].shape
            if len(x) != 4 or x[1] not in (1, 3) or len(frames) != 4 or frames[1:] != x[1:]:
                raise InputError(
                    f"{split.name}: clips have x (N, T, C, H, W) and '{FRAMES}' (N, T0, C, H, W), C = 1 or 3, got one "
                    f"x of shape {x} and frames {frames}"
                )

    def images(self, x: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Wide pictures ``(..., n, C, H, T0 W + 2 + T W)`` in [0, 1]: given frames | x.

        Args:
            x: ``(..., n, T, C, H, W)``.
            batch: ``frames`` ``(n, T0, C, H, W)``; what follows alone is shown without.
        """
        if FRAMES not in batch:
            return strip(x)
        given = strip(batch[FRAMES].to(x.device))  # (n, C, H, T0 W)
        given = given.expand(*x.shape[:-4], *given.shape[1:])
        between = given.new_ones(*given.shape[:-1], SEPARATOR)
        return torch.cat([given, between, strip(x)], -1)

    def plain(self) -> dict[str, Any]:
        """Nothing: there is one kind of them."""
        return {}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Clips:
        """Clips, of nothing.

        Raises:
            ValueError: of anything else.
        """
        if values:
            raise ValueError(f"clips have no options, got {dict(values)}")
        return cls()


def strip(frames: Tensor) -> Tensor:
    """Frames ``(..., T, C, H, W)`` side by side, floats ``(..., C, H, T W)`` in [0, 1]."""
    side_by_side = as_probability(frames).clamp(0, 1).movedim(-4, -2)  # (..., C, H, T, W)
    return side_by_side.flatten(-2)
