"""Where the data of a split are: in memory, or in a file of which the rows that are wanted are read."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import tee
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.tensors import CHUNK_ELEMENTS, LEVELS, as_tensor, converted_type
from pyro_vae.errors import InputError, ReadError

Index = slice | Tensor  # of data: a slice, or int64 (B,)


class Column(NamedTuple):
    """What every datum has under one name: its type and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]


EVALUATION = -1  # the epoch of data that are not read for training


class Piece(NamedTuple):
    """A batch that will be wanted: which data, and what their random transforms depend on."""

    epoch: int
    index: int
    places: Tensor  # int64 (B,)


Rowwise = Generator[dict[str, Tensor], None, None]


class Rows(ABC):
    """Data that are read by rows: a mapping of tensors ``(B, ...)`` for every index.

    Attributes:
        columns: type and shape of one datum, by name; x among them.
        sizes: of the batches, where the data come in batches of their own; else None.
    """

    columns: dict[str, Column]
    sizes: tuple[int, ...] | None = None

    @property
    def device(self) -> torch.device | None:
        """Where the data are; None: they are read, and can go anywhere."""
        return None

    @abstractmethod
    def __len__(self) -> int:
        """Number of data."""

    @abstractmethod
    def read(self, index: Index) -> dict[str, Tensor]:
        """The data at an index, tensors ``(B, ...)`` that the caller may alter."""

    @abstractmethod
    def digest(self, found: hashlib._Hash) -> None:
        """Feed what tells these data from others into a hash."""

    def stream(self, pieces: Iterable[Piece]) -> Rowwise:
        """The data of one piece after another, read ahead; to be closed when no more are wanted."""
        return (self.read(piece.places) for piece in pieces)

    def column(self, name: str) -> Tensor:
        """All data of one name, ``(N, ...)``."""
        return torch.cat([self.read(some)[name] for some in self.slices()])

    def with_workers(self, count: int) -> Rows:
        """The same, read by so many processes where processes can help."""
        return self

    def to(self, device: torch.device | str) -> Rows:
        """The same on a device, if they are anywhere."""
        return self

    def first(self, count: int) -> Rows:
        """The first so many, of at least as many."""
        return Part(self, torch.arange(count))

    def replaced(self, tensors: Mapping[str, Tensor]) -> Rows:
        """With columns replaced, or added, by tensors ``(N, ...)``."""
        return Beside(self, {name: tensor.cpu() for name, tensor in tensors.items()})

    def slices(self) -> Iterator[slice]:
        """All data in order, in pieces of bounded memory."""
        size = max(1, CHUNK_ELEMENTS // max(1, sum(torch.Size(c.shape).numel() for c in self.columns.values())))
        return (slice(start, min(start + size, len(self))) for start in range(0, len(self), size))


class InMemory(Rows):
    """Tensors with a common leading dimension, on any device.

    Args:
        tensors: ``(N, ...)`` each.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    @property
    def columns(self) -> dict[str, Column]:  # type: ignore[override]
        """Type and shape of one datum, by name."""
        return {name: Column(t.dtype, tuple(t.shape[1:])) for name, t in self.tensors.items()}

    def __len__(self) -> int:
        """Number of data."""
        return len(self.tensors["x"])

    def read(self, index: Index) -> dict[str, Tensor]:
        """The data at an index."""
        if isinstance(index, slice):
            return {name: tensor[index].clone() for name, tensor in self.tensors.items()}
        return {name: tensor.index_select(0, index) for name, tensor in self.tensors.items()}

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.tensors["x"].device

    def column(self, name: str) -> Tensor:
        """All data of one name."""
        return self.tensors[name]

    def to(self, device: torch.device | str) -> InMemory:
        """The same on a device."""
        return InMemory({name: tensor.to(device) for name, tensor in self.tensors.items()})

    def first(self, count: int) -> InMemory:
        """The first so many, which share their memory with the whole."""
        return InMemory({name: tensor[:count] for name, tensor in self.tensors.items()})

    def replaced(self, tensors: Mapping[str, Tensor]) -> InMemory:
        """With tensors replaced, or added."""
        return InMemory({**self.tensors, **tensors})

    def digest(self, found: hashlib._Hash) -> None:
        """Names, types, shapes and bytes."""
        for name, tensor in sorted(self.tensors.items()):
            found.update(f"/{name} {tensor.dtype} {tuple(tensor.shape)}/".encode())
            found.update(bytes_of(tensor))


def digest_rows(found: hashlib._Hash, rows: Mapping[str, Tensor]) -> None:
    """Feed names and bytes of rows that were read into a hash."""
    for name, value in sorted(rows.items()):
        found.update(f"/{name}/".encode())
        found.update(bytes_of(value))


def bytes_of(tensor: Tensor) -> np.ndarray:
    """The bytes of a tensor's numbers, uint8 ``(n,)``."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def as_rows(tensors: Mapping[str, Tensor | np.ndarray], name: str) -> InMemory:
    """Tensors, and arrays of NumPy as tensors, of one length."""
    found: dict[str, Tensor] = {}
    if "x" not in tensors:
        raise InputError(
            f"{name}: data need a tensor 'x', got only: {', '.join(map(str, tensors)) or 'nothing'} (x is "
            "handed to the program's argument x, or else to its first one, whatever that is called)"
        )
    for key, value in tensors.items():
        if isinstance(value, np.ndarray):
            value = as_tensor(value, f"{name}: '{key}'", integers=key not in LEVELS)
        if not isinstance(value, Tensor):
            raise InputError(f"{name}: '{key}' must be a tensor or an array of NumPy, got {type(value).__name__}")
        if value.dim() == 0:
            raise InputError(f"{name}: '{key}' is a single number; its leading dimension must be the data")
        found[key] = value
    lengths = {key: len(tensor) for key, tensor in found.items()}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise InputError(f"{name}: the tensors must have the same length, got {text}")
    if not len(found["x"]):
        raise InputError(f"{name}: there are no data (x has shape {tuple(found['x'].shape)})")
    return InMemory(found)


AHEAD = 8  # pieces that are read before they are wanted


class Mapped(Rows):
    """Arrays in files (:class:`numpy.memmap`), of which only the rows that are wanted are read.

    Rows are read from the file rather than through the mapping, whose pages would fill the process: it stays small
    however large the file is. Types become what they do in memory: floating point float32, integers but for uint8 of x
    (and of image and frames) int64.

    Args:
        arrays: ``(N, ...)`` each, with an x; arrays in memory may stand beside mapped ones.
        name: what errors call the data.

    Raises:
        InputError: without an x, for arrays of different lengths, of no data, or of text and objects.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str = "data") -> None:
        lengths = {key: len(array) for key, array in arrays.items()}
        if "x" not in arrays or len(set(lengths.values())) > 1 or not lengths["x"]:
            raise InputError(f"{name}: data need an array 'x', and all arrays one length that is not 0; got {lengths}")
        self.name = name
        self.columns = {
            key: Column(
                converted_type(array.dtype, f"{name}: '{key}'", integers=key not in LEVELS), tuple(array.shape[1:])
            )
            for key, array in arrays.items()
        }
        self._arrays: dict[str, np.ndarray | _File] = {key: _File.behind(a) or a for key, a in arrays.items()}

    def __len__(self) -> int:
        """Number of data."""
        return len(self._arrays["x"])

    def read(self, index: Index) -> dict[str, Tensor]:
        """The data at an index."""
        return self._read(index, self._arrays)

    def _read(self, index: Index, keys: Iterable[str]) -> dict[str, Tensor]:
        rows = {}
        for key in keys:
            array = self._arrays[key]
            some = array[index if isinstance(index, slice) else index.numpy()]
            some = np.array(some) if isinstance(array, np.ndarray) else some  # else it is the caller's own already
            rows[key] = as_tensor(some, f"{self.name}: '{key}'", integers=key not in LEVELS)
        return rows

    def stream(self, pieces: Iterable[Piece]) -> Rowwise:
        """The data of one piece after another, read ahead by a thread."""
        return read_ahead(self.read(piece.places) for piece in pieces)

    def digest(self, found: hashlib._Hash) -> None:
        """Names, types, shapes and bytes, as of tensors in memory."""
        for key, column in sorted(self.columns.items()):
            found.update(f"/{key} {column.dtype} {(len(self), *column.shape)}/".encode())
            for some in self.slices():
                found.update(bytes_of(self._read(some, [key])[key]))


class _File:
    """Rows of an array in a file.

    Args:
        path: the file.
        start: byte at which the first row begins.
        stride: bytes from one row to the next.
        like: the array.
    """

    def __init__(self, path: str, start: int, stride: int, like: np.ndarray) -> None:
        self.start, self.stride, self.count = start, stride, len(like)
        self.dtype, self.shape, self.nbytes = like.dtype, like.shape[1:], like[0].nbytes
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        weakref.finalize(self, os.close, self.descriptor)

    @classmethod
    def behind(cls, array: np.ndarray) -> _File | None:
        """The file behind a mapped array whose rows lie there in one piece each; None, if it is no such array."""
        root = array
        while isinstance(root.base, np.memmap):
            root = root.base
        if not (isinstance(root, np.memmap) and root.mode in ("r", "r+") and root.filename):
            return None
        if not (len(array) and array.size and array[0].flags.c_contiguous and array.strides[0] >= array[0].nbytes):
            return None
        return cls(str(root.filename), root.offset + array.ctypes.data - root.ctypes.data, array.strides[0], array)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        places = range(self.count)[index] if isinstance(index, slice) else index.tolist()
        rows = np.empty((len(places), *self.shape), self.dtype)
        if isinstance(places, range) and places.step == 1 and self.stride == self.nbytes:
            self._fill(rows, places.start) if len(places) else None
            return rows
        for i, place in enumerate(places):
            self._fill(rows[i : i + 1], place if place >= 0 else place + self.count)
        return rows

    def _fill(self, target: np.ndarray, place: int) -> None:
        """Read what lies at a place."""
        if not 0 <= place < self.count:
            raise IndexError(f"there is no datum {place} of {self.count}")
        wanted, done = memoryview(target.reshape(-1).view(np.uint8)), 0
        while done < len(wanted):
            read = os.preadv(self.descriptor, [wanted[done:]], self.start + place * self.stride + done)
            if read == 0:
                raise ReadError(f"the file ends before datum {place}: it was cut off since it was opened")
            done += read


class Part(Rows):
    """Some of other rows.

    Args:
        whole: the rows.
        places: which of them, int64 ``(n,)``.
    """

    def __init__(self, whole: Rows, places: Tensor) -> None:
        self.whole, self.places, self.columns = whole, places, whole.columns

    def __len__(self) -> int:
        """Number of data."""
        return len(self.places)

    def read(self, index: Index) -> dict[str, Tensor]:
        """The data at an index."""
        return self.whole.read(self.places[index])

    def stream(self, pieces: Iterable[Piece]) -> Rowwise:
        """The data of one piece after another."""
        if self.whole.sizes is not None:  # whose batches are of the whole
            return super().stream(pieces)
        return self.whole.stream(piece._replace(places=self.places[piece.places]) for piece in pieces)

    def with_workers(self, count: int) -> Rows:
        """The same, read by so many processes where processes can help."""
        return Part(self.whole.with_workers(count), self.places)

    def digest(self, found: hashlib._Hash) -> None:
        """What tells the whole from others, and which part it is."""
        self.whole.digest(found)
        found.update(bytes_of(self.places))


class Beside(Rows):
    """Rows with some columns replaced, or added, by tensors in memory.

    Args:
        rows: the others.
        tensors: ``(N, ...)`` each, on the CPU.
    """

    def __init__(self, rows: Rows, tensors: Mapping[str, Tensor]) -> None:
        self.rows, self.own, self.sizes = rows, InMemory(tensors), rows.sizes
        self.columns = {**rows.columns, **self.own.columns}

    def __len__(self) -> int:
        """Number of data."""
        return len(self.rows)

    def read(self, index: Index) -> dict[str, Tensor]:
        """The data at an index."""
        return {**self.rows.read(index), **self.own.read(index)}

    def stream(self, pieces: Iterable[Piece]) -> Rowwise:
        """The data of one piece after another."""
        read, own = tee(pieces)
        with closing(self.rows.stream(read)) as stream:
            for rows, piece in zip(stream, own, strict=False):
                yield {**rows, **self.own.read(piece.places)}

    def column(self, name: str) -> Tensor:
        """All data of one name."""
        return self.own.column(name) if name in self.own.tensors else self.rows.column(name)

    def with_workers(self, count: int) -> Rows:
        """The same, read by so many processes where processes can help."""
        return Beside(self.rows.with_workers(count), self.own.tensors)

    def digest(self, found: hashlib._Hash) -> None:
        """What tells both from others."""
        self.rows.digest(found)
        self.own.digest(found)


class _End(NamedTuple):
    error: BaseException | None


def read_ahead(rows: Iterator[dict[str, Tensor]]) -> Rowwise:
    """What an iterator gives, computed by a thread, at most ``AHEAD`` before it is wanted.

    The thread ends with the iterator, or when nobody holds the result any more.
    """
    waiting: queue.Queue[dict[str, Tensor] | _End] = queue.Queue(AHEAD)
    given_up = threading.Event()

    def put(value: dict[str, Tensor] | _End) -> bool:
        while not given_up.is_set():
            try:
                waiting.put(value, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        end = _End(None)
        try:
            for each in rows:
                if not put(each):
                    return
        except BaseException as error:  # told where the data are wanted
            end = _End(error)
        put(end)

    thread = threading.Thread(target=work, name="pyro_vae reads data", daemon=True)

    def take() -> Rowwise:
        thread.start()
        try:
            while True:
                value = waiting.get()
                if isinstance(value, _End):
                    if value.error is not None:
                        raise value.error
                    return
                yield value
        finally:
            given_up.set()
            thread.join()

    return take()
