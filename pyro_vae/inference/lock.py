"""One training at a time in a directory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyro_vae.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_held: dict[tuple[int, int], int] = {}  # directory, by device and inode -> the thread that trains in it


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other trainings out of a directory for the length of a block; it is made if it is not there.

    The lock is the operating system's, on the directory itself: it ends with the process, however that ends, and no
    file is left. A block inside another one of the same thread changes nothing.

    Raises:
        InputError: if another training, of this or another process, has the directory.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot write {directory}, the directory to train in: {error.strerror}") from error
    found = os.fstat(handle)
    key, me = (found.st_dev, found.st_ino), threading.get_ident()
    try:
        if _held.get(key) == me:
            yield
            return
        if key in _held or not _acquired(handle):
            raise InputError(
                f"another training is at work in {directory}: wait until it has ended, or stop it and resume"
            )
        _held[key] = me
        try:
            yield
        finally:
            del _held[key]
    finally:
        os.close(handle)


def _acquired(handle: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
