"""Arrays that a source made once and keeps in a file, read without trust."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from pyro_vae.data.sources.arrays import read_arrays
from pyro_vae.errors import CorruptFileError, InputError

T = TypeVar("T")


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
