"""Arrays that a source makes once and keeps in a file, which is read without trust."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from pyro_vae.data.images import data_folders
from pyro_vae.data.sources.arrays import read_arrays
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_atomically

T = TypeVar("T")


def find_kept(root: Path | None, name: Path, read: Callable[[Path], T | None]) -> T | None:
    """What the first file of a name keeps of which something can be read; None if there is none.

    Args:
        root: a folder that is looked in before those of the user and the machine.
        name: of the file in them.
        read: a file's path to what it keeps, or None, as :func:`held`.
    """
    return next((kept for folder in data_folders(root) if (kept := read(folder / name)) is not None), None)


def keep(path: Path, recipe: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file that :func:`held` reads.

    Args:
        path: where to, ``.npz``.
        recipe: how the arrays were made.
        arrays: by name.

    Raises:
        InputError: if it cannot be written.
    """
    write_atomically(path, lambda temporary: np.savez_compressed(temporary, recipe=np.array(recipe), **arrays))


def held(path: Path, recipe: str, read: Callable[[Mapping[str, np.ndarray]], T]) -> T | None:
    """What a file keeps; None if there is none, or it was made in another way.

    Args:
        path: a ``.npz`` file with an array ``recipe`` beside others.
        recipe: how they would be made now.
        read: makes of the arrays what is wanted; raises ValueError if they are not as they should be.

    Raises:
        CorruptFileError: naming the file, if it is damaged, or its arrays are not as they should be.
    """
    if not path.is_file():
        return None
    try:
        arrays = read_arrays(path)
        return read(arrays) if str(arrays["recipe"]) == recipe else None
    except (InputError, ValueError, KeyError) as error:
        raise CorruptFileError(f"{path}: damaged ({error}); remove it, and it is made anew") from error
