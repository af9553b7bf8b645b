"""A folder of images as a dataset."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.data.images import SUFFIXES, is_grey, read_image, square
from pyro_vae.data.parts import PARTS, Parts, random_order
from pyro_vae.errors import InputError

Labelled = list[tuple[Path, str | None]]  # image files with the class's name, in sorted order


def load_folder(path: Path, image_size: int | None, limit: int | None) -> Parts:
    """Load a folder of images, of one sub-folder per class, or of train/validation/test folders of either.

    Without split folders the images are split at random (seed 0) into 80% / 10% / 10%. If all images are grey
    they get one channel, else three. Hidden files and folders are passed over.

    Args:
        path: the folder.
        image_size: central square, resized to this many pixels a side; needed if the images differ in size.
        limit: at most that many images of each split are read.

    Returns:
        ``x`` uint8 (N, C, H, W), and with class folders ``y`` int64 (N,), the class's place in sorted order.

    Raises:
        CorruptFileError: naming the file, if an image is truncated or damaged.
        InputError: naming the file or folder, for other layouts, and for images of different sizes without
            image_size.
    """
    splits = _find_splits(path)
    classes = sorted({label for _, label in splits["train"] if label is not None})
    _check_classes(path, splits, classes)
    splits = {part: members[:limit] for part, members in splits.items()}
    grey = all([is_grey(file) for members in splits.values() for file, _ in members])
    parts: Parts = {}
    first: tuple[Path, torch.Size] | None = None
    for part, members in splits.items():
        x: Tensor | None = None
        for place, (file, _) in enumerate(members):
            image = read_image(file, grey=grey)  # (C, H, W)
            if image_size is not None:
                image = square(image.unsqueeze(0), image_size)[0]
            first = first or (file, image.shape)
            if image.shape != first[1]:
                raise InputError(_sizes_differ(file, image.shape, *first))
            if x is None:
                x = image.new_empty(len(members), *image.shape)  # (N, C, H, W)
            x[place] = image
        parts[part] = {"x": x}
        if classes:
            parts[part]["y"] = torch.tensor([classes.index(label) for _, label in members])  # (N,)
    return parts


def _find_splits(path: Path) -> dict[str, Labelled]:
    folders = _visible_folders(path)
    if not any(folder.name in PARTS for folder in folders):
        everything = _list_images(path)
        return {part: [everything[i] for i in index.tolist()] for part, index in random_order(len(everything)).items()}
    for entry in [*folders, *_images_in(path)]:
        if entry.name not in PARTS:
            raise InputError(f"{entry}: beside split folders there may only be {', '.join(PARTS)}; rename or move it")
    if not (path / "train").is_dir():
        raise InputError(f"{path}: has split folders but no 'train'")
    return {part: _list_images(path / part) for part in PARTS if (path / part).is_dir()}


def _list_images(path: Path) -> Labelled:
    flat, folders = _images_in(path), _visible_folders(path)
    if flat and folders:
        raise InputError(f"{path}: holds both images and sub-folders ('{folders[0].name}'); use one or the other")
    found: Labelled = [(file, None) for file in flat]
    for folder in folders:
        files = _images_in(folder)
        if not files:
            raise InputError(f"{folder}: no images in this class folder ({', '.join(SUFFIXES)}); remove it or fill it")
        found += [(file, folder.name) for file in files]
    if not found:
        raise InputError(f"{path}: no images in this folder; looked for {', '.join(SUFFIXES)}")
    return found


def _images_in(path: Path) -> list[Path]:
    return sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _visible_folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _check_classes(path: Path, splits: dict[str, Labelled], classes: list[str]) -> None:
    for part, members in splits.items():
        for file, label in members:
            if (label is None) == bool(classes) or (label is not None and label not in classes):
                raise InputError(f"{file.parent}: {part} must have the class folders of train ({', '.join(classes)})")


def _sizes_differ(file: Path, shape: torch.Size, first: Path, expected: torch.Size) -> str:
    return (
        f"{file}: is {shape[1]} x {shape[2]} pixels (height x width), "
        f"but {first} is {expected[1]} x {expected[2]}; "
        "give image_size to cut and resize all images to one size"
    )
