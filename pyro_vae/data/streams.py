"""Data of a user's own kind: map-style datasets, loaders, and iterables of batches, as rows of a split."""

from __future__ import annotations

import copy
import hashlib
import signal
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from pyro_vae.data.items import OddItem, as_named_batch, check_columns, columns_of, copied, stacked
from pyro_vae.data.rows import EVALUATION, Column, Index, Piece, Rows, Rowwise, bytes_of, digest_rows
from pyro_vae.errors import InputError, ReadError
from pyro_vae.runtime import RandomStates, derived_seed

SAMPLED = 256  # data at even distances whose contents tell a dataset from others


class Items(Rows):
    """A map-style dataset: what has a length and ``dataset[i]`` (torch's; Hugging Face's in torch or numpy format).

    An item is a tensor or array x, a tuple (x, y), or a dict with an x. Random transforms are reproducible: they draw
    from states of torch, NumPy and Python that are functions of seed, epoch and batch in training, of the datum alone
    elsewhere, whatever the number of workers.

    Args:
        dataset: the items.
        num_workers: processes that read ahead in training and where all data are gone through; 0: none.
        collate: makes a batch of a list of items, as a ``DataLoader``'s ``collate_fn``; None: tensors are stacked.
        name: what errors call the data.

    Raises:
        InputError: for no data, and items that are none of the above.
        ReadError: if an item cannot be read.
    """

    def __init__(
        self,
        dataset: Any,
        num_workers: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        name: str = "data",
    ) -> None:
        self.dataset, self.num_workers, self.collate, self.name = dataset, num_workers, collate, name
        self.columns: dict[str, Column] = {}
        self._count = len(dataset)
        if not self._count:
            raise InputError(f"{name}: there are no data, the dataset has length 0")
        self.columns = columns_of(self.read(slice(0, 1)))

    def __len__(self) -> int:
        """Number of data."""
        return self._count

    def read(self, index: Index) -> dict[str, Tensor]:
        """The data at an index."""
        places = range(self._count)[index] if isinstance(index, slice) else index.tolist()
        parts = []
        for place in places:  # one by one: a datum's draws must not depend on those beside it
            with RandomStates(derived_seed("item", place)):
                parts.append(self._batch([place]))
        if len(parts) == 1:
            return parts[0]
        self._check_alike(parts, places)
        return {key: torch.cat([part[key] for part in parts]) for key in self.columns}

    def with_workers(self, count: int) -> Items:
        """The same dataset, read by so many processes."""
        other = copy.copy(self)
        other.num_workers = count
        return other

    def of_piece(self, piece: Piece) -> dict[str, Tensor]:
        """A batch of training, or of evaluation."""
        if piece.epoch == EVALUATION:
            return self.read(piece.places)
        with RandomStates(derived_seed("items", piece.epoch, piece.index)):
            return self._batch(piece.places.tolist())

    def stream(self, pieces: Iterable[Piece]) -> Rowwise:
        """The data of one piece after another, by the workers if there are any."""
        if self.num_workers == 0:
            return (self.of_piece(piece) for piece in self._while_whole(pieces))
        return self._by_workers(pieces)

    def _by_workers(self, pieces: Iterable[Piece]) -> Rowwise:
        try:
            yield from self._of_loader(pieces)
        except (RuntimeError, OSError, EOFError) as error:  # what torch and the pipe to a process that ended raise
            if isinstance(error, RuntimeError) and "worker" not in str(error):
                raise
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ReadError(
                f"{self.name}: a process that reads data ended ({line}); it may have run out of memory: take fewer "
                "num_workers, or none to see its own error"
            ) from error

    def _of_loader(self, pieces: Iterable[Piece]) -> Rowwise:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more processes than cores: the user's
            loader = DataLoader(
                _OfPieces(self),
                batch_sampler=([piece] for piece in self._while_whole(pieces)),  # type: ignore[arg-type]
                num_workers=self.num_workers,
                collate_fn=_only,
                prefetch_factor=4,
                generator=torch.Generator(),
                worker_init_fn=_leave_signals_to_its_parent,
            )
            iterator = iter(loader)
        try:
            for batch in iterator:
                if isinstance(batch, InputError):
                    raise batch
                yield batch
        finally:
            iterator._shutdown_workers()  # at once: a process that ended raises its error wherever we are, until then
            for process in getattr(iterator, "_workers", ()):
                if process.is_alive():  # busy with a datum, and deaf to SIGTERM
                    process.kill()

    def _while_whole(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces, as long as the dataset has the length that it had."""
        epoch = None
        for piece in pieces:
            if piece.epoch != epoch:
                epoch = piece.epoch
                if len(self.dataset) != self._count:
                    raise ReadError(
                        f"{self.name}: the dataset had {self._count} data and has {len(self.dataset)} now; its length "
                        "must stay"
                    )
            yield piece

    def _batch(self, places: list[int]) -> dict[str, Tensor]:
        items = self._items(places)
        try:
            batch = (
                as_named_batch(self.collate(items), self.name)
                if self.collate is not None
                else stacked(items, self.name)
            )
        except OddItem as odd:
            raise ReadError(f"{self.name}: datum {places[odd.place]} {odd}") from None
        if self.columns:
            check_columns(
                batch,
                self.columns,
                len(places),
                f"{self.name}: {'datum' if len(places) == 1 else 'data from'} {places[0]}",
            )
        return batch

    def _items(self, places: list[int]) -> list[Any]:
        together = getattr(self.dataset, "__getitems__", None)
        place = places[0]
        try:
            if together is not None:
                return list(together(places))
            items = []
            for place in places:
                items.append(copied(self.dataset[place]))
            return items
        except Exception as error:  # the user's own, of any kind
            raise ReadError(f"{self.name}: datum {place} cannot be read: {type(error).__name__}: {error}") from error

    def _check_alike(self, parts: Sequence[Mapping[str, Tensor]], places: Sequence[int]) -> None:
        first = columns_of(parts[0])
        for part, place in zip(parts, places, strict=True):
            check_columns(part, first, 1, f"{self.name}: datum {place}")

    def digest(self, found: hashlib._Hash) -> None:
        """Length and kind of the items, and the contents of 256 of them at even distances."""
        found.update(f"/items {self._count} {self.columns}/".encode())
        count = min(SAMPLED, self._count)
        digest_rows(found, self.read(torch.arange(count) * self._count // count))


def _leave_signals_to_its_parent(worker: int) -> None:
    """Schedulers and terminals signal all processes of a job; the first decides, and needs its readers until then."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class _OfPieces:
    """What a worker of a DataLoader is handed: batches by piece."""

    def __init__(self, items: Items) -> None:
        self.items = items

    def __getitem__(self, piece: Piece) -> dict[str, Tensor] | InputError:
        try:
            return self.items.of_piece(piece)
        except InputError as error:  # told by who asked, without the traceback of another process
            return error


def _only(batch: list[Any]) -> Any:
    return batch[0]


class Batches(Rows):
    """An iterable of batches, which come as it gives them: a ``DataLoader``, a list, an object of one's own.

    It is gone through once when it is made, to see what there is. Whatever it draws from torch, NumPy and Python comes
    from states that are functions of seed and epoch.

    Args:
        batches: gives tensors x, tuples (x, y) or dicts with an x, with as many batches of the same sizes each time.
        name: what errors call the data.

    Raises:
        InputError: for an iterator, which can be gone through only once; for no batches, or batches of other columns.
    """

    def __init__(self, batches: Iterable[Any], name: str = "data") -> None:
        if iter(batches) is batches:
            raise InputError(
                f"{name}: an iterator can be gone through only once, and training needs as many times as there are "
                "epochs: give what it was made of (a list, a DataLoader, an object whose __iter__ begins anew)"
            )
        self.batches, self.name = batches, name
        self._sums: list[int] = []  # checksums of the batches, as evaluation has them
        sizes: list[int] = []
        self.columns = {}
        for batch in self._anew(EVALUATION):
            self.columns = self.columns or columns_of(batch)
            sizes.append(len(batch["x"]))
        if not sum(sizes):
            raise InputError(f"{name}: there are no data, the iterable gives no batches")
        self.sizes = tuple(sizes)
        self._running: tuple[int, Iterator[dict[str, Tensor]], dict[str, Tensor] | None] | None = None

    def __len__(self) -> int:
        """Number of data."""
        assert self.sizes is not None
        return sum(self.sizes)

    def _anew(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """All batches, from the first."""
        own, place, batches = RandomStates(derived_seed("epoch", epoch)), 0, None
        while True:
            with own:
                try:
                    batches = iter(_unstarted(self.batches)) if batches is None else batches
                    batch = copied(next(batches))  # its buffers may be filled anew with the next
                except StopIteration:
                    return
                except Exception as error:  # the user's own, of any kind
                    raise ReadError(
                        f"{self.name}: batch {place} cannot be read: {type(error).__name__}: {error}"
                    ) from error
            found = self._checked(batch, place)
            if epoch == EVALUATION:
                self._check_same(found, place)
            yield found
            place += 1

    def _check_same(self, batch: Mapping[str, Tensor], place: int) -> None:
        """Check that evaluation is given what it was given first: else y would be of other data than x."""
        found = 0
        for _, value in sorted(batch.items()):
            found = zlib.crc32(bytes_of(value), found)
        if place == len(self._sums):
            self._sums.append(found)
        if self._sums[place] != found:
            raise ReadError(
                f"{self.name}: batch {place} holds other data than when it was gone through first; where they are "
                "measured they must be the same each time: let the iterable draw from the states of torch, NumPy or "
                "Python (no generator of its own), and give each time tensors of their own"
            )

    def _checked(self, batch: Any, place: int) -> dict[str, Tensor]:
        found, label = as_named_batch(batch, self.name), f"{self.name}: batch {place}"
        count = len(found["x"])
        if self.columns:
            check_columns(found, self.columns, count, label)
        if self.sizes is not None and (place >= len(self.sizes) or self.sizes[place] != count):
            had = f"{self.sizes[place]} data" if place < len(self.sizes) else "not there"
            raise ReadError(f"{label} has {count} data, and was {had} when it was gone through first")
        return found

    def read(self, index: Index) -> dict[str, Tensor]:
        """The data at an index: in order they are gone through once, else anew for each call."""
        places = torch.arange(len(self))[index] if isinstance(index, slice) else index
        if not len(places):
            return {key: torch.empty(0, *column.shape, dtype=column.dtype) for key, column in self.columns.items()}
        order = places.argsort()
        wanted, parts = places[order], []
        if self._running is None or wanted[0] < self._running[0]:
            self._running = 0, self._anew(EVALUATION), None
        start, batches, batch = self._running
        done = 0
        while done < len(wanted):
            if batch is None or wanted[done] >= start + len(batch["x"]):
                start += 0 if batch is None else len(batch["x"])
                batch = next(batches)
                continue
            here = wanted[(wanted >= start) & (wanted < start + len(batch["x"]))] - start
            parts.append({key: value[here] for key, value in batch.items()})
            done += len(here)
        self._running = start, batches, batch
        back = order.argsort()
        return {key: torch.cat([part[key] for part in parts])[back] for key in self.columns}

    def stream(self, pieces: Iterable[Piece]) -> Rowwise:
        """The batches of one epoch after another, from the first piece on; those before it are passed over.

        In evaluation the data of the pieces, which may be cut otherwise.
        """
        epoch, batches = None, iter(())
        for piece in pieces:
            if piece.epoch == EVALUATION:
                yield self.read(piece.places)
                continue
            if piece.epoch != epoch:
                epoch, batches = piece.epoch, self._anew(piece.epoch)
                for _ in range(piece.index):
                    next(batches, None)
            batch = next(batches, None)
            if batch is None:
                raise ReadError(
                    f"{self.name}: the iterable gave {piece.index} batches in epoch {piece.epoch + 1}, and "
                    f"{len(self.sizes or ())} when it was gone through first"
                )
            yield batch

    def digest(self, found: hashlib._Hash) -> None:
        """Sizes and kind of the batches, and the contents of the first."""
        found.update(f"/batches {self.sizes} {self.columns}/".encode())
        digest_rows(found, next(self._anew(EVALUATION)))


def rows_of(obj: Any, num_workers: int = 0, name: str = "data") -> Rows | None:
    """A user's data as rows; None, if they are no dataset and no iterable of batches.

    A ``DataLoader`` over a map-style dataset is read item by item in our own order, with its workers and its
    ``collate_fn``; one with a sampler or an order of its own, or over an iterable dataset, gives its batches.
    """
    if isinstance(obj, DataLoader):
        if isinstance(obj.dataset, IterableDataset) or not _in_plain_order(obj) or _made_otherwise(obj):
            return Batches(obj, name)
        collate = None if obj.collate_fn is default_collate else obj.collate_fn
        return Items(obj.dataset, num_workers or obj.num_workers, collate, name)
    if isinstance(obj, IterableDataset):
        raise InputError(f"{name}: an IterableDataset gives single items: make batches of them, DataLoader(dataset, …)")
    if isinstance(obj, Mapping | str | bytes | Tensor | np.ndarray):
        return None
    if hasattr(obj, "toarray") or (hasattr(obj, "columns") and hasattr(obj, "to_numpy")):  # else read by columns
        how = ".toarray()" if hasattr(obj, "toarray") else '.to_numpy("float32")'
        raise InputError(f"{name}: a {type(obj).__name__} is no array and no dataset: give its array, {how}")
    if isinstance(obj, tuple):
        raise InputError(
            f"{name}: a tuple of {len(obj)} may be data and labels, or batches: give {{'x': x, 'y': y}}, or a list of "
            "batches"
        )
    if hasattr(obj, "__getitem__") and hasattr(obj, "__len__") and not isinstance(obj, list):
        return Items(obj, num_workers, name=name)
    if hasattr(obj, "__iter__"):
        return Batches(obj, name)
    return None


def _unstarted(batches: Iterable[Any]) -> Iterable[Any]:
    """An iterable that is gone through apart from others: workers that persist would end those that are under way."""
    if isinstance(batches, DataLoader) and batches.persistent_workers:
        batches = copy.copy(batches)
        batches._iterator = None
    return batches


def _made_otherwise(loader: DataLoader) -> bool:
    """Whether a loader's batches are more than its items collated: a class of the user's that makes them itself."""
    return type(loader).__iter__ is not DataLoader.__iter__


def _in_plain_order(loader: DataLoader) -> bool:
    """Whether a loader gives each of its dataset's data once, in order or at random."""
    kinds = type(loader.sampler) in (RandomSampler, SequentialSampler) and type(loader.batch_sampler) is BatchSampler
    return kinds and not getattr(loader.sampler, "replacement", False) and len(loader.sampler) == len(loader.dataset)
