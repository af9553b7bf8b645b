"""A few data of a split, spread evenly over it."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.data import Split


def pick(split: Split, n: int, seed: int = 0) -> dict[str, Tensor]:
    """A batch of at most n data at even distances, so that a split sorted by class shows all of them.

    Args:
        split: the data.
        n: how many.
        seed: of dynamic binarization's draws.

    Returns:
        ``(min(n, len(split)), ...)`` by key.
    """
    index = evenly(len(split), n).to(split.device)
    return split.fixed(index).batch(slice(None))


def picked(split: Split, n: int, seed: int = 0) -> Split:
    """What :func:`pick` picks, as a split."""
    index = evenly(len(split), n)
    names = None if split.names is None else [split.names[i] for i in index.tolist()]
    return Split(pick(split, n, seed), integers=split.integers, names=names, name=split.name)


def evenly(count: int, n: int) -> Tensor:
    """The places of at most n of ``count`` data at even distances, int64 ``(min(n, count),)``."""
    n = min(n, count)
    return torch.arange(n) * count // n
