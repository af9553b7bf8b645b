"""The order of batches in an epoch: a pure function of seed, epoch and position."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor

from pyro_vae.data import Split, lengths_of
from pyro_vae.data.rows import Piece, Rowwise
from pyro_vae.errors import InputError, positive
from pyro_vae.programs.context import X
from pyro_vae.runtime import derived_seed

LENGTHS = "lengths"  # an entry of data that are sequences


class EpochBatches:
    """Shuffled batches of a split, on its device.

    Which data batch ``index`` of epoch ``epoch`` holds, and how they are binarized, depends on the seed and these two
    numbers only; so training can resume anywhere. Among ``world`` processes each takes its part of every joint batch
    (batch_size data), with the joint batch's order and binarization.

    With ``length_buckets`` the data of so many batches, which the order has one after another, are sorted by their
    lengths and cut into batches of like length, and then the batches of the epoch are put into a random order. Each
    datum still comes once an epoch, and all places of an epoch are equally likely for it, but for the rest that makes
    no whole batch, which is drawn from all data and comes last.

    Args:
        split: the data.
        batch_size: data in a joint batch; the last of an epoch may be smaller (and is cut to a multiple of
            ``world``).
        seed: of order and binarization.
        rank, world: this process and how many there are.
        length_buckets: batches whose data are sorted by length together; None: no datum's length matters.

    Raises:
        InputError: if batch_size is not positive or not a multiple of ``world``, there are no data, or lengths are
            asked for and the data have none.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        length_buckets: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be a positive integer, got {batch_size}")
        if batch_size % world:
            raise InputError(f"batch_size {batch_size} must be a multiple of the number of devices, {world}")
        if len(split) < world:
            raise InputError(f"the training data hold {len(split)} data, at least {world} are needed")
        self.split, self.batch_size, self.seed = split, min(batch_size, len(split)), seed
        self.rank, self.world = rank, world
        self._generator = torch.Generator(split.device)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)
        self._ahead: tuple[tuple[int, int], Rowwise] | None = None  # the next batch that is read
        self.sizes = split.source.sizes  # of the batches, where they are the data's own; else None
        if self.sizes is not None:
            if world > 1:
                raise InputError("an iterable of batches cannot be divided among devices: give a map-style dataset")
            self.batch_size = max(self.sizes)
            self._starts = [0, *accumulate(self.sizes)]
        self.length_buckets = length_buckets
        self._lengths = None if length_buckets is None else _lengths(split, positive("length_buckets", length_buckets))

    def __len__(self) -> int:
        """Batches in an epoch."""
        if self.sizes is not None:
            return len(self.sizes)
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest >= self.world)

    @property
    def in_order(self) -> bool:
        """Whether the batches come as an iterable gives them."""
        return self.sizes is not None

    def size(self, index: int) -> int:
        """How many data the joint batch of this place has."""
        if self.sizes is not None:
            return self.sizes[index]
        size = min(self.batch_size, len(self.split) - index * self.batch_size)
        return size - size % self.world

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        """This process's part of one batch."""
        return self.split.finish(self._rows(epoch, index, ahead=False))

    def rows(self, epoch: int, index: int) -> dict[str, Tensor]:
        """What ``split.finish`` makes that batch from. Of data that are not in memory the next are read ahead."""
        return self._rows(epoch, index, ahead=True)

    def _rows(self, epoch: int, index: int, *, ahead: bool) -> dict[str, Tensor]:
        joint = self._places(epoch, index)
        self._generator.manual_seed(derived_seed(self.seed, "draw", epoch, index))
        if ahead and not self.split.in_memory:
            rows = self.split.completed(self._read(epoch, index), joint, self._generator)
        else:
            rows = self.split.rows(joint, self._generator)
        if self.world == 1:
            return rows
        share = len(joint) // self.world
        return {k: v[self.rank * share : (self.rank + 1) * share] for k, v in rows.items()}

    def _places(self, epoch: int, index: int) -> Tensor:
        """Which data the joint batch holds, int64 ``(B,)`` where the order is."""
        if self.sizes is not None:
            return torch.arange(self._starts[index], self._starts[index + 1])
        if epoch != self._epoch:
            order = self._order_of(epoch)
            self._epoch, self._order = epoch, order.to(self.split.device if self.split.in_memory else "cpu")
        return self._order[index * self.batch_size : (index + 1) * self.batch_size]

    def _order_of(self, epoch: int) -> Tensor:
        """The data of an epoch, batch after batch, int64 ``(N,)``."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", epoch))
        order, size = torch.randperm(len(self.split), generator=generator), self.batch_size
        if self._lengths is None or self.length_buckets is None:
            return order
        whole, rest = order[: len(order) // size * size], order[len(order) // size * size :]
        windows = whole.split(self.length_buckets * size)
        batches = torch.cat([some[self._lengths[some].argsort(stable=True)] for some in windows]).view(-1, size)
        batches = batches[torch.randperm(len(batches), generator=generator)]
        mixed = torch.rand(batches.shape, generator=generator).argsort(1)  # no process has the shortest of each
        return torch.cat([batches.gather(1, mixed).flatten(), rest])

    def _read(self, epoch: int, index: int) -> dict[str, Tensor]:
        """A joint batch of data that are not in memory; those after it are read ahead."""
        if self._ahead is None or self._ahead[0] != (epoch, index):
            self.close()
            ahead = copy.copy(self)  # an order of its own
            ahead._epoch = -1
            self._ahead = (epoch, index), self.split.source.stream(ahead.pieces(epoch, index))
        rows = next(self._ahead[1])
        self._ahead = self._after(epoch, index), self._ahead[1]
        return rows

    def _after(self, epoch: int, index: int) -> tuple[int, int]:
        """The batch that follows one."""
        return (epoch, index + 1) if index + 1 < len(self) else (epoch + 1, 0)

    def pieces(self, epoch: int, index: int) -> Iterator[Piece]:
        """The joint batches from one on, without end."""
        while True:
            yield Piece(epoch, index, self._places(epoch, index))
            epoch, index = self._after(epoch, index)

    def close(self) -> None:
        """Let go of what reads ahead."""
        if self._ahead is not None:
            self._ahead[1].close()
        self._ahead = None


def _lengths(split: Split, buckets: int) -> Tensor:
    """The length of every datum, int64 ``(N,)`` on the CPU: its entry ``lengths``, or its tokens before the first 0.

    Args:
        split: the data.
        buckets: how many batches are to be sorted together, for the words of errors.

    Raises:
        InputError: if they have none.
    """
    asked = f"length_buckets={buckets} makes batches of like length"
    if split.source.sizes is not None:
        raise InputError(f"{asked}, and {split.name} come in batches of their own: give a map-style dataset")
    if LENGTHS in split.columns:
        column = split.columns[LENGTHS]
        if column.shape or column.dtype.is_floating_point:
            raise InputError(
                f"{asked}, and the entry '{LENGTHS}' of {split.name} is {column.dtype} of shape {column.shape} a "
                "datum, where a single integer is right"
            )
        return split.column(LENGTHS).cpu().long()
    if split.integers and len(split.columns[X].shape) == 1:
        return torch.cat([lengths_of(split.source.read(some)[X]).cpu() for some in split.source.slices()])
    raise InputError(
        f"{asked}, and {split.name} have no lengths: give an entry '{LENGTHS}', one integer a datum, or x that are "
        f"tokens (N, T), whose length is that before the first 0; x are {split.columns[X].dtype} of shape {split.shape}"
    )
