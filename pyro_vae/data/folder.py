"""A folder of images as a dataset."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.data.captions import find_captions
from pyro_vae.data.images import is_grey, read_image, square
from pyro_vae.data.layout import IMAGES, class_names, find_splits
from pyro_vae.data.loaded import Loaded
from pyro_vae.data.names import file_names, shown
from pyro_vae.data.parts import Parts
from pyro_vae.data.room import check_room
from pyro_vae.errors import InputError


def load_folder(path: Path, image_size: int | None, limit: int | None) -> Loaded:
    """Load a folder of images, of one sub-folder per class, or of train/validation/test folders of either.

    Without split folders the images are split at random (seed 0) into 80% / 10% / 10%. If all images are grey
    they get one channel, else three. Hidden files and folders are passed over.

    Args:
        path: the folder.
        image_size: central square, resized to this many pixels a side; needed if the images differ in size.
        limit: at most that many images of each split are read.

    Returns:
        ``x`` uint8 (N, C, H, W), and with class folders ``y`` int64 (N,), the class's place in sorted order; captions,
        if the folder has files of them (:mod:`pyro_vae.data.captions`); the files' names, and the classes'.

    Raises:
        CorruptFileError: naming the file, if an image is truncated or damaged.
        InputError: naming the file or folder, for other layouts, for images of different sizes without image_size, and
            for images without a caption where others have one.
    """
    splits = find_splits(path, IMAGES)
    classes = class_names(splits)
    captions = find_captions(path, splits)
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
                check_room(path, sum(map(len, splits.values())) * image.numel(), "give image_size, or a limit")
                x = image.new_empty(len(members), *image.shape)  # (N, C, H, W)
            x[place] = image
        parts[part] = {"x": x}
        if classes:
            parts[part]["y"] = torch.tensor([classes.index(label) for _, label in members])  # (N,)
    named = {"names": file_names(path, splits), "classes": tuple(map(shown, classes)) or None}
    return Loaded(parts, captions=captions, **named)


def _sizes_differ(file: Path, shape: torch.Size, first: Path, expected: torch.Size) -> str:
    return (
        f"{file}: is {shape[1]} x {shape[2]} pixels (height x width), "
        f"but {first} is {expected[1]} x {expected[2]}; "
        "give image_size to cut and resize all images to one size"
    )
