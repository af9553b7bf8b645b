"""The parts of a dataset: train, validation, test."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_vae.data.rows import Rows

Parts = dict[str, dict[str, Tensor] | Rows]  # "train" (always), "validation", "test" -> key -> (N, ...)
Texts = Mapping[str, tuple[str, ...]]  # by split, one a datum
PARTS = ("train", "validation", "test")
SPLIT_SEED = 0


def random_order(n: int) -> dict[str, Tensor]:
    """Split n data at random (seed 0): floor(n/10) for validation, as many for test, the rest for training.

    Returns:
        int64 indices by split; a split that would be empty is left out.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(SPLIT_SEED))
    tenth = n // 10
    pieces = order.split([n - 2 * tenth, tenth, tenth])
    return {part: piece for part, piece in zip(PARTS, pieces, strict=True) if len(piece)}


def hold_out_last(tensors: dict[str, Tensor], n: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Cut the last n data off: (all but the last n, the last n)."""
    return {k: v[:-n] for k, v in tensors.items()}, {k: v[-n:] for k, v in tensors.items()}
