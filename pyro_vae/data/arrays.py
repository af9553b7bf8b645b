"""Data of one's own in a .npz or .npy file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from pyro_vae.data.array_files import read_arrays
from pyro_vae.data.axes import Layout, with_channels
from pyro_vae.data.numbers import as_tensor
from pyro_vae.data.parts import PARTS, Parts, random_order
from pyro_vae.errors import InputError

X_NAMES = ("x", *(f"x_{part}" for part in PARTS))


def load_arrays(path: Path, layout: Layout | None = None) -> Parts:
    """Load arrays: ``.npy`` is x; ``.npz`` holds ``x``, or ``x_train``, ``x_validation``, ``x_test``.

    Other arrays of a ``.npz``, e.g. ``y`` or ``y_train``, must have as many entries.

    Without given splits the data are split at random (seed 0) into 80% / 10% / 10%. Given splits are taken
    as they are. Dtypes of x: uint8, bool, floating point (-> float32).

    Args:
        path: the file.
        layout: what the axes of x are; by the rules of :func:`pyro_vae.data.axes.with_channels`, if None.

    Returns:
        Tensors per split.

    Raises:
        CorruptFileError: naming the file and the array, if it is truncated or damaged.
        InputError: naming file and array, for other names, shapes and types, for NaN or infinite x, and what
            :func:`pyro_vae.data.array_files.read_arrays` refuses.
    """
    tensors = {key: _tensor(key, array, path) for key, array in read_arrays(path).items()}
    xs = {key: f"{path}: '{key}'" for key in tensors if key in X_NAMES}
    tensors |= with_channels({key: tensors[key] for key in xs}, xs, layout)
    if "x" in tensors:
        mixed = [key for key in tensors if key.startswith("x_")]
        if mixed:
            raise InputError(f"{path}: holds both 'x' and '{mixed[0]}'; give one x, or one per split")
        return _split_at_random(tensors, path)
    return _given_splits(tensors, path)


def _split_at_random(tensors: dict[str, Tensor], path: Path) -> Parts:
    length = len(tensors["x"])
    for key, tensor in tensors.items():
        if len(tensor) != length:
            raise InputError(f"{path}: '{key}' has {len(tensor)} entries but 'x' has {length}")
    order = random_order(length)
    return {part: {key: tensor[index] for key, tensor in tensors.items()} for part, index in order.items()}


def _given_splits(tensors: dict[str, Tensor], path: Path) -> Parts:
    parts: Parts = {}
    for name, tensor in tensors.items():
        key, _, part = name.rpartition("_")
        if not key or part not in PARTS:
            raise InputError(
                f"{path}: unexpected array '{name}'; expected x (and others, e.g. y), or "
                "x_train, x_validation, x_test (and others, e.g. y_train)"
            )
        parts.setdefault(part, {})[key] = tensor
    if "train" not in parts:
        raise InputError(f"{path}: holds no 'x' and no 'x_train'; found: {', '.join(tensors) or 'no arrays'}")
    for part, members in parts.items():
        if members.keys() != parts["train"].keys():
            has, expected = (", ".join(sorted(keys)) for keys in (members, parts["train"]))
            raise InputError(f"{path}: {part} has {has} but train has {expected}")
    if "x" not in parts["train"]:
        raise InputError(f"{path}: holds no 'x' and no 'x_train'; found: {', '.join(tensors)}")
    return parts


def _tensor(key: str, array: np.ndarray, path: Path) -> Tensor:
    label = f"{path}: '{key}'"
    is_x = key in X_NAMES
    if array.ndim == 0:
        raise InputError(f"{label} is a single number; its leading dimension must be the data")
    if array.size == 0:
        raise InputError(f"{label} is empty, its shape is {array.shape}")
    if is_x and array.dtype.kind not in "fb" and array.dtype != np.uint8:
        raise InputError(f"{label} must be uint8 (grey levels 0..255), bool or floating point, got {array.dtype}")
    tensor = as_tensor(array, label, integers=not is_x)
    if is_x and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise InputError(f"{label} holds NaN or infinite numbers, or such as float32 cannot hold; replace them first")
    return tensor
