"""Arrays of NumPy as tensors, in the types that the package computes with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import InputError

MOST = np.iinfo(np.int64).max


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
