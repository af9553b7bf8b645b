"""Arrays in ``.npy`` and ``.npz`` files, read without trust: a header's promise is compared with the file first."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from pyro_vae.data.room import check_room
from pyro_vae.errors import CorruptFileError, InputError

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
ENCRYPTED = 1  # a flag of a member of a ZIP archive
CHUNK = 1 << 24  # bytes read at once


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; ``x`` that of a ``.npy`` file (what it is, its first bytes say).

    Nothing is unpickled, and nothing is allocated before the header agrees with the size of the file.

    Raises:
        CorruptFileError: naming the file and the member, if it is truncated or damaged, or promises what is not there.
        InputError: naming the file and the member, for members that are encrypted, text or Python objects, and for
            arrays larger than the machine's memory.
    """
    with _damage(path), path.open("rb") as file:
        start = file.read(len(npy.MAGIC_PREFIX))
        file.seek(0)
        if start == npy.MAGIC_PREFIX:
            return {"x": _read(file, os.fstat(file.fileno()).st_size, f"{path}: 'x'")}
        if not start.startswith(b"PK"):
            raise ValueError("it begins as neither does" if start else "it is empty")
        with zipfile.ZipFile(file) as archive:
            return _members(archive, path)


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, np.ndarray]:
    members = archive.infolist()
    check_room(path, sum(member.file_size for member in members))
    arrays: dict[str, np.ndarray] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if member.flag_bits & ENCRYPTED:
            raise InputError(f"{path}: '{name}' is encrypted; save the arrays without a password")
        if name in arrays:
            raise CorruptFileError(f"{path}: holds '{name}' twice; save it again")
        with _damage(f"{path}: '{name}'", path.suffix), archive.open(member) as stream:
            arrays[name] = _read(stream, member.file_size, f"{path}: '{name}'")
    return arrays


def _read(stream: IO[bytes], size: int, label: str) -> np.ndarray:
    """One array of a stream that holds so many bytes."""
    start = stream.read(npy.MAGIC_LEN)
    if not start.startswith(npy.MAGIC_PREFIX):
        raise InputError(f"{label} is no array (it begins with {start!r}); leave it out, or save it with numpy.save")
    header = HEADERS.get(tuple(start[len(npy.MAGIC_PREFIX) :]))
    if header is None:
        raise ValueError(f"version {start[-2:].hex('.')} of the format is not known")
    shape, fortran, dtype = header(stream)
    if dtype.hasobject:
        raise InputError(f"{label} holds Python objects, which are not loaded; save numeric arrays")
    promised, there = prod(shape) * dtype.itemsize, size - stream.tell()  # of Python's integers: they do not overflow
    if min(shape, default=0) < 0 or promised != there:
        told = f"{' x '.join(map(str, shape))} of {dtype}, {promised:,} bytes"
        raise ValueError(f"its header says {told}, but {there:,} follow")
    check_room(label, promised)
    content = bytearray(promised)
    for place in range(0, promised, CHUNK):
        piece = stream.read(min(CHUNK, promised - place))
        content[place : place + len(piece)] = piece
        if len(piece) < min(CHUNK, promised - place):
            raise ValueError("it ends too early")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


@contextmanager
def _damage(label: object, suffix: str | None = None) -> Iterator[None]:
    """Whatever the readers of archives, compression and headers raise, is damage to the file."""
    try:
        with warnings.catch_warnings():  # of headers that Python 2 wrote
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{label}: does not fit into memory; give fewer data") from error
    except Exception as error:
        suffix = Path(str(label)).suffix.lower() if suffix is None else suffix
        raise CorruptFileError(f"{label}: truncated or damaged, or no {suffix} file ({error})") from error
