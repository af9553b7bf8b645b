"""Files that a user brings to a trained model, made like the data that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.data.binarize import Binarization, binarize
from pyro_vae.data.images import read_image, square
from pyro_vae.data.layout import IMAGES, SOUNDS, Kind
from pyro_vae.data.mask import quadrant_mask
from pyro_vae.data.sound import Sound
from pyro_vae.data.split import Split
from pyro_vae.errors import InputError


def read_files(
    paths: Sequence[Path],
    shape: tuple[int, ...],
    *,
    sound: Sound | None = None,
    image_size: int | None = None,
    binarization: Binarization = "none",
    binarization_seed: int = 0,
    observed_quadrants: int | None = None,
) -> Split:
    """Read WAV files as sound was read, or image files as a folder of images was.

    Args:
        paths: the files.
        shape: of one x.
        sound: how x is played, if the data are sound: recordings are mixed, resampled, cut or padded, and encoded.
        image_size: images are cut to their central square and resized, as the dataset's were; without it they must have
            the size of the data.
        binarization, binarization_seed, observed_quadrants: as for :func:`pyro_vae.data.load_data`; under ``dynamic``
            the files are binarized once, as test data are.

    Returns:
        the files in their order.

    Raises:
        CorruptFileError: naming the file, if it is damaged.
        InputError: naming the file, if there is none, it is of another kind or size, or not to be used for another
            reason; and for data that are neither images nor sound.
    """
    images = sound is None and len(shape) == 3 and shape[0] in (1, 3)
    if sound is None and not images:
        raise InputError(f"files cannot be given: the data, of shape {shape}, are neither images nor sound")
    for path in paths:
        _check_kind(path, IMAGES if images else SOUNDS)
    if sound is not None:
        return Split({"x": torch.stack([sound.encode(sound.read(path, shape[-1])) for path in paths]).unsqueeze(1)})
    x = torch.stack([_image(path, shape, image_size) for path in paths])  # (n, C, H, W)
    if binarization != "none":
        how = "threshold" if binarization == "threshold" else "static"
        x = binarize(x, how, seed=binarization_seed, part="test", name="files")
    mask = None if observed_quadrants is None else quadrant_mask(shape, observed_quadrants, "files")
    return Split({"x": x}, mask=mask, name="files")


def _check_kind(path: Path, kind: Kind) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() not in kind.suffixes:
        raise InputError(f"{path}: the data are {kind.noun}; give files of these kinds: {', '.join(kind.suffixes)}")


def _image(path: Path, shape: tuple[int, ...], image_size: int | None) -> Tensor:
    image = read_image(path, grey=shape[0] == 1)  # (C, H, W)
    if image_size is not None:
        image = square(image.unsqueeze(0), image_size)[0]
    if tuple(image.shape) != shape:
        raise InputError(
            f"{path}: is {image.shape[1]} x {image.shape[2]} pixels (height x width), but the data are "
            f"{shape[1]} x {shape[2]}; resize it first"
        )
    return image
