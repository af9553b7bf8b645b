"""Tensors of data: made of arrays, checked, and read in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import InputError

CHUNK_ELEMENTS = 1 << 24  # numbers handled at once where a whole split is read
WHERE_MISSING = ", or say Split(…, missing=True) if NaN are entries that are not known, to a model that leaves them out"
MOST = np.iinfo(np.int64).max
LEVELS = ("x", "image", "frames")  # entries whose uint8 are levels from black to white, and no integers


def as_tensor(array: np.ndarray, label: str, *, integers: bool = True) -> Tensor:
    """A tensor of an array: bool and uint8 as they are, floating point as float32, other integers as int64.

    Args:
        array: any shape; it shares its memory with the tensor where its type stays and it can be written to.
        label: what errors call it.
        integers: uint8 too becomes int64: numbers that are labels, not grey levels.

    Raises:
        InputError: for arrays of text, Python objects, complex numbers or dates, and integers beyond int64.
    """
    kind = array.dtype.kind
    if kind == "f":
        with np.errstate(over="ignore"):  # to infinity, which whoever needs finite numbers finds
            array = array.astype(np.float32, copy=False)
    elif kind in "iu" and (integers or array.dtype != np.uint8):
        if array.size and array.dtype == np.uint64 and array.max() > MOST:
            raise InputError(f"{label} holds integers beyond int64, up to {array.max()}")
        array = array.astype(np.int64, copy=False)
    elif kind not in "bu":
        raise InputError(f"{label} must be numbers, got {array.dtype}")
    array = np.ascontiguousarray(array).reshape(array.shape)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def converted_type(dtype: np.dtype, label: str, *, integers: bool = True) -> torch.dtype:
    """The type of the tensor that :func:`as_tensor` makes of an array of this type.

    Raises:
        InputError: as :func:`as_tensor`.
    """
    return as_tensor(np.zeros(0, dtype), label, integers=integers).dtype


def as_real(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A floating-point tensor in another type; others as they are."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def check_finite(x: Tensor, name: str, before: int | Sequence[int] | Tensor = 0, *, missing: bool = False) -> None:
    """Refuse NaN and infinite numbers.

    Args:
        x: data, ``(N, ...)``.
        name: what errors call them.
        before: how many data come before these; or which data they are, one number each.
        missing: NaN are entries that are not known, and are no error.

    Raises:
        InputError: names the first datum that has some.
    """
    if not x.is_floating_point():
        return
    seen = 0
    for chunk in chunks(x):
        finite = chunk.isfinite() | chunk.isnan() if missing else chunk.isfinite()
        finite = finite.reshape(len(chunk), -1).all(1)
        if not bool(finite.all()):
            first = seen + int((~finite).nonzero()[0])
            first = before + first if isinstance(before, int) else int(before[first])
            kind, what = str(x.dtype).removeprefix("torch."), "infinite" if missing else "NaN or infinite"
            raise InputError(
                f"{name}: x holds {what} numbers (as {kind}; datum {first} is the first that does); remove "
                f"or replace them first{'' if missing else WHERE_MISSING}"
            )
        seen += len(chunk)


def chunks(x: Tensor) -> Iterator[Tensor]:
    """Cut (N, ...) along the data into pieces of at most about ``CHUNK_ELEMENTS`` numbers."""
    return iter(x.split(chunk_size(x)))


def chunk_size(x: Tensor) -> int:
    """How many data of x (N, ...) have at most about ``CHUNK_ELEMENTS`` numbers; at least one."""
    return max(1, CHUNK_ELEMENTS // max(1, x.shape[1:].numel()))
