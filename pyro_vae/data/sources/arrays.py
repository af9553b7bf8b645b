"""Arrays in ``.npy`` and ``.npz`` files as data: read without trust, with axes said or told from the shape."""

from __future__ import annotations

import logging
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.lib import format as npy
from torch import Tensor

from pyro_vae.data.dataset import RawData
from pyro_vae.data.parts import PARTS, Parts, random_order
from pyro_vae.data.registry import source
from pyro_vae.data.rows import Mapped, Part
from pyro_vae.data.tensors import LEVELS, as_tensor
from pyro_vae.errors import CorruptFileError, InputError, unknown
from pyro_vae.runtime import check_room

logger = logging.getLogger(__name__)

Layout = Literal["NHW", "NCHW", "NHWC", "NCL", "NTCHW", "NTHWC"]
LAYOUTS: dict[str, str] = {  # what becomes of x, (N, ...)
    "NHW": "grey images, (N, height, width)",
    "NCHW": "images with channels first, (N, channels, height, width)",
    "NHWC": "images with channels last, (N, height, width, channels)",
    "NCL": "signals, (N, channels, length)",
    "NTCHW": "clips, (N, frames, channels, height, width)",
    "NTHWC": "clips with channels last, (N, frames, height, width, channels)",
}
CHANNELS_LAST = ("NHWC", "NTHWC")
COLOURS = (1, 3)  # numbers of channels that images usually have


def with_channels(arrays: Mapping[str, Tensor], labels: Mapping[str, str], layout: Layout | None) -> dict[str, Tensor]:
    """Bring data to the axes that the package has: vectors (N, D), signals (N, C, L), images (N, C, H, W), clips
    (N, T, C, H, W).

    Without a layout, three axes are grey images; four are images with channels last if the last axis is 1 or 3 and the
    second is not, else with channels first; five are clips by the same rule. Where another reading is as good, one line
    of the log says which was taken.

    Args:
        arrays: the data, by name: of one dataset, so read alike.
        labels: what errors and the log call them, the file and the array.
        layout: what the axes are.

    Raises:
        InputError: naming the array, for an unknown layout, one of another number of axes, and arrays of one axis or
            more than five.
    """
    layout = _layout({name: tuple(x.shape) for name, x in arrays.items()}, labels, layout)
    return {name: _moved(x, layout) for name, x in arrays.items()}


def _layout(shapes: Mapping[str, tuple[int, ...]], labels: Mapping[str, str], layout: Layout | None) -> Layout | None:
    """What the axes of arrays are, as :func:`with_channels` says it; None: vectors."""
    if layout is not None and layout not in LAYOUTS:
        raise unknown("layout", str(layout), LAYOUTS)
    for name, shape in shapes.items():
        if not 2 <= len(shape) <= 5:
            raise InputError(
                f"{labels[name]} has shape {shape}; expected (N, D), (N, H, W), (N, C, H, W) or (N, H, W, 1 or 3), or "
                "clips (N, T, C, H, W)"
            )
        if layout is not None and len(shape) != len(layout):
            text = f"{labels[name]} has shape {shape}, but layout {layout} is {LAYOUTS[layout]}"
            raise InputError(f"{text}; say another one")
    if not shapes or layout is not None:
        return layout
    first, shape = next(iter(shapes.items()))
    layout = _likely(shape)
    if layout is not None and _another_is_as_good(shape):
        others = ", ".join(other for other in LAYOUTS if len(other) == len(shape) and other != layout)
        logger.info("%s: shape %s read as %s; else say layout=%s", labels[first], shape, LAYOUTS[layout], others)
    return layout


def _likely(shape: tuple[int, ...]) -> Layout | None:
    if len(shape) == 3:
        return "NHW"
    if len(shape) == 4:
        return "NHWC" if shape[3] in COLOURS and shape[1] not in COLOURS else "NCHW"
    if len(shape) == 5:
        return "NTHWC" if shape[4] in COLOURS and shape[2] not in COLOURS else "NTCHW"
    return None


def _another_is_as_good(shape: tuple[int, ...]) -> bool:
    """Of three axes one could be channels; of four the second and the last could be so alike, of five the third."""
    few = [size in COLOURS for size in shape[1:]]
    return any(few) if len(shape) == 3 else few[-3] == few[-1]


def _moved(x: Tensor, layout: Layout | None) -> Tensor:
    if layout == "NHW":
        return x.unsqueeze(1)
    return x.movedim(-1, -3).contiguous() if layout in CHANNELS_LAST else x


def pictures_beside(tensors: Mapping[str, Tensor], labels: Mapping[str, str]) -> dict[str, Tensor]:
    """Pictures beside x with channels first: images (N, C, H, W), frames (N, T, C, H, W).

    Channels are last if the last axis is 1 or 3 and the one where they belong is not; without an axis of channels,
    pictures are grey. The log says what was moved; what has other axes stays as it is.

    Args:
        tensors: by name, ``image`` or ``image_train`` and the like.
        labels: what the log calls them.
    """
    moved = {}
    for key, value in tensors.items():
        axes = {"image": 4, "frames": 5}.get(_entry(key))
        if axes is not None and value.dim() == axes - 1:
            moved[key] = value.unsqueeze(-3)
            logger.info("%s: shape %s read as grey pictures", labels[key], tuple(value.shape))
        elif axes is not None and value.dim() == axes and value.shape[-1] in COLOURS and value.shape[-3] not in COLOURS:
            moved[key] = value.movedim(-1, -3).contiguous()
            logger.info("%s: shape %s read as pictures with channels last", labels[key], tuple(value.shape))
    return moved


def _entry(key: str) -> str:
    """The name of an array without that of its part: ``image`` of ``image_train``."""
    name, _, part = key.rpartition("_")
    return name if part in PARTS and name else key


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
    shape, fortran, dtype = _header(stream, size, label)
    promised = prod(shape) * dtype.itemsize
    check_room(label, promised)
    content = bytearray(promised)
    for place in range(0, promised, CHUNK):
        piece = stream.read(min(CHUNK, promised - place))
        content[place : place + len(piece)] = piece
        if len(piece) < min(CHUNK, promised - place):
            raise ValueError("it ends too early")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _header(stream: IO[bytes], size: int, label: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of the array that a stream of so many bytes begins with; it is at the first number then."""
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
        text = f"{' x '.join(map(str, shape))} of {dtype}, {promised:,} bytes"
        raise ValueError(f"its header says {text}, but {there:,} follow")
    return shape, fortran, dtype


def map_array(path: Path) -> np.memmap:
    """The array of a ``.npy`` file, mapped: its numbers are read when they are wanted.

    Raises:
        CorruptFileError, InputError: as :func:`read_arrays`; and for a ``.npz`` file, whose arrays cannot be mapped.
    """
    with _damage(path), path.open("rb") as file:
        if not file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            raise InputError(
                f"{path}: in_memory=False is for .npy files, of one array x; save it by itself, numpy.save('x.npy', x)"
            )
        file.seek(0)
        shape, fortran, dtype = _header(file, os.fstat(file.fileno()).st_size, f"{path}: 'x'")
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


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


ARRAYS = (".npz", ".npy")
X_NAMES = ("x", *(f"x_{part}" for part in PARTS))


@source(
    "an array file",
    "arrays in a .npz or .npy file",
    reads=lambda path: path.is_file() and path.suffix.lower() in ARRAYS,
)
def load_arrays(path: Path, *, layout: Layout | None = None, missing: bool = False, in_memory: bool = True) -> RawData:
    """Load arrays: ``.npy`` is x; ``.npz`` holds ``x``, or ``x_train``, ``x_validation``, ``x_test``.

    Other arrays of a ``.npz``, e.g. ``y`` or ``y_train``, must have as many entries. ``image`` (N, C, H, W) and
    ``frames`` (N, T, C, H, W) are pictures, of which uint8 are levels from black to white; uint8 of others are
    integers.

    Without given splits the data are split at random (seed 0) into 80% / 10% / 10%. Given splits are taken
    as they are. Dtypes of x: uint8, bool, floating point (-> float32).

    Args:
        path: the file.
        layout: what the axes of x are, NHW, NCHW, NHWC, NCL (signals), NTCHW or NTHWC (clips). If None, told from the
            shape, by the rules of :func:`with_channels`; the log says how, where it could be told otherwise.
        missing: NaN in x are entries that are not known, for a model that leaves them out (``models.TabularVAE``).
        in_memory: False: a ``.npy`` file is mapped, and its rows are read when they are wanted, so that it may be
            larger than the memory; what x holds is then checked as it is read.

    Returns:
        Tensors per split.

    Raises:
        CorruptFileError: naming the file and the array, if it is truncated or damaged.
        InputError: naming file and array, for other names, shapes and types, for NaN or infinite x, and what
            :func:`read_arrays` refuses.
    """
    if not in_memory:
        return RawData(_mapped(path, layout), missing=missing)
    tensors = arrays_of(path, layout, missing)
    parts = _split_at_random(tensors, path) if "x" in tensors else _given_splits(tensors, path)
    return RawData(parts, missing=missing)


def arrays_of(
    path: Path, layout: Layout | None, missing: bool, shape: tuple[int, ...] | None = None
) -> dict[str, Tensor]:
    """The arrays of a file as tensors by name, x with the axes that the package has.

    Args:
        path, layout, missing: as for :func:`load_arrays`.
        shape: of one x that is wanted: without a layout, x that have it already are left as they are.

    Raises:
        CorruptFileError, InputError: as :func:`load_arrays`.
    """
    tensors = {key: _tensor(key, array, path, missing) for key, array in read_arrays(path).items()}
    xs = {key: f"{path}: '{key}'" for key in tensors if key in X_NAMES}
    if layout is not None or any(tuple(tensors[key].shape[1:]) != shape for key in xs):
        tensors |= with_channels({key: tensors[key] for key in xs}, xs, layout)
    tensors |= pictures_beside(tensors, {key: f"{path}: '{key}'" for key in tensors})
    mixed = [key for key in tensors if key.startswith("x_")]
    if "x" in tensors and mixed:
        raise InputError(f"{path}: holds both 'x' and '{mixed[0]}'; give one x, or one per split")
    return tensors


def named_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of a file as tensors by name, pictures among them as :func:`pictures_beside` has them.

    Raises:
        CorruptFileError, InputError: as :func:`read_arrays`.
    """
    tensors = {key: _tensor(key, array, path, missing=False) for key, array in read_arrays(path).items()}
    return tensors | pictures_beside(tensors, {key: f"{path}: '{key}'" for key in tensors})


def part_of_arrays(tensors: dict[str, Tensor], path: Path, part: str | None) -> tuple[dict[str, Tensor], str]:
    """The tensors of a part, and which it is: "test" if none is asked for, but all of what is not divided into parts.

    Args:
        tensors: of a file, :func:`arrays_of`.
        path: of the file.
        part: "train", "validation" or "test".

    Raises:
        InputError: for a part that the file does not have, and as :func:`load_arrays`.
    """
    parts = _split_at_random(tensors, path) if "x" in tensors else _given_splits(tensors, path)
    if part is None and "x" in tensors:
        return dict(tensors), "test"
    part = part or "test"
    if part not in parts:
        raise InputError(f"{path}: has no {part} part; it has: {', '.join(parts)}")
    return dict(parts[part]), part  # type: ignore[arg-type]


def _mapped(path: Path, layout: Layout | None) -> Parts:
    array, label = map_array(path), f"{path}: 'x'"
    _check_kind(array, label, is_x=True)
    layout = _layout({"x": array.shape}, {"x": label}, layout)
    if layout == "NHW":
        array = array[:, None]
    array = np.moveaxis(array, -1, -3) if layout in CHANNELS_LAST else array  # a view
    rows = Mapped({"x": array}, str(path))
    return {part: Part(rows, places) for part, places in random_order(len(rows)).items()}


def _split_at_random(tensors: dict[str, Tensor], path: Path) -> Parts:
    length = len(tensors["x"])
    for key, tensor in tensors.items():
        if len(tensor) != length:
            raise InputError(f"{path}: '{key}' has {len(tensor)} entries but 'x' has {length}")
    order = random_order(length)
    return {part: {key: tensor[index] for key, tensor in tensors.items()} for part, index in order.items()}


def _given_splits(tensors: dict[str, Tensor], path: Path) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
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


def _check_kind(array: np.ndarray, label: str, *, is_x: bool) -> None:
    if array.ndim == 0:
        raise InputError(f"{label} is a single number; its leading dimension must be the data")
    if array.size == 0:
        raise InputError(f"{label} is empty, its shape is {array.shape}")
    if is_x and array.dtype.kind not in "fb" and array.dtype != np.uint8:
        raise InputError(f"{label} must be uint8 (grey levels 0..255), bool or floating point, got {array.dtype}")


def _tensor(key: str, array: np.ndarray, path: Path, missing: bool) -> Tensor:
    label = f"{path}: '{key}'"
    is_x = key in X_NAMES
    _check_kind(array, label, is_x=is_x)
    tensor = as_tensor(array, label, integers=_entry(key) not in LEVELS)
    if is_x and tensor.is_floating_point():
        finite = tensor.isfinite() | tensor.isnan() if missing else tensor.isfinite()
        if not bool(finite.all()):
            what = "" if missing else "NaN or "
            raise InputError(
                f"{label} holds {what}infinite numbers, or such as float32 cannot hold; replace them first"
            )
    return tensor
