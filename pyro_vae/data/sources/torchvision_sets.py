"""Datasets that torchvision reads and downloads: CIFAR-10, SVHN, Omniglot, CelebA."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyro_vae.data.dataset import RawData
from pyro_vae.data.images import FORMATS, cache_folder, data_folders, square
from pyro_vae.data.parts import Parts, hold_out_last
from pyro_vae.data.registry import source
from pyro_vae.data.torchvision_datasets import torchvision_datasets
from pyro_vae.errors import CorruptFileError, InputError


@source(
    "cifar10",
    "CIFAR-10 photographs (Krizhevsky 2009), 32x32 RGB, 10 classes; 45,000 train / 5,000 validation / 10,000 test",
)
def load_cifar10(root: Path | None) -> RawData:
    """Load CIFAR-10: x uint8 (N, 3, 32, 32), y int64 (N,); the last 5,000 of train validate."""
    train, test = (_open("CIFAR10", root, train=flag) for flag in (True, False))
    return _with_validation(*(_arrays(np.moveaxis(part.data, -1, 1), part.targets) for part in (train, test)))


@source(
    "svhn",
    "SVHN house numbers (Netzer et al. 2011), 32x32 RGB, 10 classes; 65,932 train / 7,325 validation / 26,032 test",
)
def load_svhn(root: Path | None) -> RawData:
    """Load SVHN: x uint8 (N, 3, 32, 32), y int64 (N,); the last 7,325 of train validate."""
    if importlib.util.find_spec("scipy") is None:
        raise InputError("svhn comes as MATLAB files, which torchvision reads with scipy: pip install scipy")
    train, test = (_open("SVHN", root, split=part) for part in ("train", "test"))
    return _with_validation(*(_arrays(part.data, part.labels) for part in (train, test)))


@source(
    "omniglot",
    "Omniglot characters (Lake et al. 2015), grey, 28x28 unless image_size says otherwise, ink white; "
    "17,352 train / 1,928 validation / 13,180 test",
)
def load_omniglot(root: Path | None, image_size: int | None, limit: int | None) -> RawData:
    """Load Omniglot: x uint8 (N, 1, size, size) white ink on black, y int64 (N,), the character.

    The background set is for training, its last 1,928 images for validation, the evaluation set for test: the
    characters of validation and test are not in the training data.
    """
    background, evaluation = (_open("Omniglot", root, background=flag) for flag in (True, False))
    held_out = len(background) // 10
    places = {
        "train": (background, range(len(background) - held_out)),
        "validation": (background, range(len(background) - held_out, len(background))),
        "test": (evaluation, range(len(evaluation))),
    }
    parts: Parts = {}
    for part, (dataset, index) in places.items():
        x, y = _decode(dataset, index[:limit], image_size or 28)
        parts[part] = {"x": 255 - x, "y": y}
    return RawData(parts)


@source(
    "celeba",
    "CelebA faces (Liu et al. 2015), RGB, 64x64 unless image_size says otherwise; "
    "162,770 train / 19,867 validation / 19,962 test",
)
def load_celeba(root: Path | None, image_size: int | None, limit: int | None) -> RawData:
    """Load CelebA: x uint8 (N, 3, size, size), the central square resized; attributes bool (N, 40)."""
    parts: Parts = {}
    for part, split in {"train": "train", "validation": "valid", "test": "test"}.items():
        dataset = _open("CelebA", root, split=split, target_type="attr")
        x, attributes = _decode(dataset, range(len(dataset))[:limit], image_size or 64)
        parts[part] = {"x": x, "attributes": attributes.bool()}
    return RawData(parts)


def _open(class_name: str, root: Path | None, **options: Any) -> Any:
    kind: Callable[..., Any] = getattr(torchvision_datasets(class_name), class_name)
    places = data_folders(root)
    try:
        with _arrays_only():
            for place in places:
                try:
                    return kind(place, download=False, **options)
                except (RuntimeError, FileNotFoundError):  # not there, or not complete
                    continue
            return kind(cache_folder(), download=True, **options)
    except Exception as error:  # of the network, the file system, or Google Drive's client
        looked = ", ".join(str(place) for place in places)
        raise InputError(
            f"torchvision's {class_name}: no complete local copy, and the download failed ({error}). "
            f"Looked in: {looked}. Connect to the network, or give root=FOLDER with the files as torchvision "
            "lays them out."
        ) from error


class _Arrays(pickle.Unpickler):
    """Reads pickles of arrays, texts, numbers, lists and dicts; nothing else that a pickle names is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        """NumPy's own makers of arrays."""
        if (module, name) in ARRAYS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs")


ARRAYS = {
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    ("_codecs", "encode"),
}


@contextmanager
def _arrays_only() -> Iterator[None]:
    """CIFAR's files are pickles, which torchvision reads when it has compared their MD5: here as arrays alone."""
    import torchvision.datasets.cifar as cifar

    was = cifar.pickle
    cifar.pickle = SimpleNamespace(load=lambda file, **options: _Arrays(file, **options).load())
    try:
        yield
    finally:
        cifar.pickle = was


@contextmanager
def _pictures_only() -> Iterator[None]:
    """Pillow tries the formats of pictures alone: others, such as PostScript, start programs."""
    was = Image.open
    Image.open = partial(was, formats=FORMATS)
    try:
        yield
    finally:
        Image.open = was


def _arrays(x: np.ndarray, y: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
    return {"x": torch.from_numpy(np.ascontiguousarray(x)), "y": torch.as_tensor(np.asarray(y)).long()}


def _with_validation(whole: dict[str, Tensor], test: dict[str, Tensor]) -> RawData:
    train, validation = hold_out_last(whole, len(whole["x"]) // 10)
    return RawData({"train": train, "validation": validation, "test": test})


def _decode(dataset: Any, index: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
    images: Tensor | None = None
    targets = []
    for place, i in enumerate(index):
        try:
            with _pictures_only():
                image, target = dataset[i]
                pixels = torch.from_numpy(np.array(image))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            text = f"torchvision's {type(dataset).__name__}: image {i} cannot be read ({error})"
            raise CorruptFileError(text) from error
        pixels = pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1)  # (C, H, W)
        if images is None:
            images = pixels.new_empty(len(index), len(pixels), size, size)
        images[place] = square(pixels.unsqueeze(0), size)[0]
        targets.append(torch.as_tensor(target))
    if images is None:
        raise InputError(f"torchvision's {type(dataset).__name__} holds no images")
    return images, torch.stack(targets)
