"""Data of one's own in a .npz or .npy file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.parts import PARTS, Parts, random_order
from pyro_vae.errors import CorruptFileError, InputError


def load_arrays(path: Path) -> Parts:
    """Load arrays: ``.npy`` is x; ``.npz`` holds ``x``, or ``x_train``, ``x_validation``, ``x_test``.

    Other arrays of a ``.npz``, e.g. ``y`` or ``y_train``, must have as many entries.

    Without given splits the data are split at random (seed 0) into 80% / 10% / 10%. Given splits are taken
    as they are. Accepted shapes of x: (N, D); (N, H, W) -> (N, 1, H, W); (N, C, H, W); (N, H, W, 1 or 3) ->
    channels first, unless the first of the three dimensions is itself 1 or 3. Dtypes: uint8, bool, floating
    point (-> float32).

    Returns:
        Tensors per split.

    Raises:
        CorruptFileError: naming the file, if it is truncated or damaged.
        InputError: naming file and array, for other names, shapes and types, and for NaN or infinite x.
    """
    arrays = _read(path)
    tensors = {key: _tensor(key, array, path) for key, array in arrays.items()}
    if "x" in tensors:
        mixed = [key for key in tensors if key.startswith("x_")]
        if mixed:
            raise InputError(f"{path}: holds both 'x' and '{mixed[0]}'; give one x, or one per split")
        return _split_at_random(tensors, path)
    return _given_splits(tensors, path)


def _read(path: Path) -> dict[str, np.ndarray]:
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"x": loaded}
            return {key: loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if "allow_pickle" in str(error) and "Object arrays" in str(error):
            raise InputError(f"{path}: holds Python objects, which are not loaded; save numeric arrays") from error
        raise CorruptFileError(f"{path}: truncated or damaged, or no {suffix} file ({error})") from error


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
    is_x = key == "x" or key in [f"x_{part}" for part in PARTS]
    kind = array.dtype.kind
    if array.ndim == 0:
        raise InputError(f"{label} is a single number; its leading dimension must be the data")
    if array.size == 0:
        raise InputError(f"{label} is empty, its shape is {array.shape}")
    if kind == "f":
        array = array.astype(np.float32)
    elif kind in "iu" and not is_x:
        array = array.astype(np.int64)
    elif array.dtype != np.uint8 and kind != "b":
        wanted = "uint8 (grey levels 0..255), bool or floating point" if is_x else "numbers"
        raise InputError(f"{label} must be {wanted}, got {array.dtype}")
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if not is_x:
        return tensor
    if kind == "f" and not bool(tensor.isfinite().all()):
        raise InputError(f"{label} holds NaN or infinite numbers; remove or replace them first")
    return _images_or_vectors(tensor, label)


def _images_or_vectors(x: Tensor, label: str) -> Tensor:
    if x.dim() == 2:
        return x
    if x.dim() == 3:
        return x.unsqueeze(1)  # (N, 1, H, W)
    if x.dim() != 4:
        raise InputError(
            f"{label} has shape {tuple(x.shape)}; expected (N, D), (N, H, W), (N, C, H, W) or (N, H, W, 1 or 3)"
        )
    channels_last = x.shape[3] in (1, 3) and x.shape[1] not in (1, 3)
    return x.permute(0, 3, 1, 2).contiguous() if channels_last else x  # (N, C, H, W)
