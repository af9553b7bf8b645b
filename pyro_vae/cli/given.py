"""The context of a model from a file: a picture, or arrays by name."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from pyro_vae.data import Pictures
from pyro_vae.data.binarization import as_probability
from pyro_vae.data.images import fitted, is_grey, read_image
from pyro_vae.data.sources.arrays import ARRAYS, named_arrays
from pyro_vae.errors import InputError
from pyro_vae.files import user_path
from pyro_vae.programs.context import Context, X, declared_context, needed_to_generate

logger = logging.getLogger(__name__)


def read_given(model: nn.Module, pictures: Pictures | None, name: str, said: Collection[str] = ()) -> dict[str, Tensor]:
    """What a model is given, as a file says it.

    Args:
        model: that is to be sampled.
        pictures: how its data are looked at, which may say what a picture is to it.
        name: of an image file, for a model that is given one picture; or of a ``.npz`` with what it is given by name.
        said: what the model is given otherwise, and the file is not asked for.

    Returns:
        ``(n, ...)`` each; one of a picture.

    Raises:
        CorruptFileError: naming the file, if it is damaged.
        InputError: for a model that is given nothing, or other than one picture; a file that is not there, or lacks
            what the model needs; a grey picture where one with colours is needed; and what the model does not accept.
    """
    declared = {name: each for name, each in declared_context(model).items() if name not in said}
    needed = [name for name in needed_to_generate(model) if name not in said]
    if not needed:
        raise InputError("--given is of conditional models, and this one is given nothing: leave it out")
    path = user_path(name)
    if not path.is_file():
        raise InputError(f"--given {name}: no such file")
    if path.suffix.lower() in ARRAYS:
        found = _of_arrays(path, declared, needed)
    else:
        found = _of_picture(path, declared, needed, pictures)
    for entry, value in found.items():
        if entry in declared:
            try:
                declared[entry].check(entry, value)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
    return found


def _of_arrays(path: Path, declared: dict[str, Context], needed: list[str]) -> dict[str, Tensor]:
    arrays = named_arrays(path)
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise InputError(f"{path}: the model is given {', '.join(needed)}, and the file has {', '.join(arrays)}")
    others = [name for name in arrays if name not in declared and name not in needed]
    if others:
        logger.info("%s: %s passed over, which the model is not given", path, ", ".join(others))
    found = {name: as_probability(value) if value.dtype in (torch.uint8, torch.bool) else value
             for name, value in arrays.items() if name not in others}  # fmt: skip
    for name, value in found.items():
        if name in declared and tuple(value.shape) == declared[name].shape:
            found[name] = value[None]  # one datum's
    lengths = {name: len(value) for name, value in found.items()}
    if len({*lengths.values()}) > 1:
        raise InputError(f"{path}: there must be as many of all that is given, got {lengths}")
    return found


def _of_picture(
    path: Path, declared: dict[str, Context], needed: list[str], pictures: Pictures | None
) -> dict[str, Tensor]:
    fits = [name for name in needed if name in declared and _is_picture(declared[name])]
    if len(fits) != 1 or [name for name in needed if name not in fits and name != "y"]:
        raise InputError(
            f"{path}: the model is given {', '.join(needed)}, and one picture does not say that: give a .npz with "
            "arrays of these names"
        )
    (name,) = fits
    channels, height, width = declared[name].shape
    if channels == 3 and is_grey(path):
        raise InputError(f"{path}: is a grey picture, and the model is given '{name}' in colour: give one with colours")
    image = read_image(path, grey=False)[None]  # (1, 3, H, W)
    if tuple(image.shape[-2:]) != (height, width):
        logger.info(
            "%s: %d x %d pixels (height x width), cut to its middle and resized to %d x %d",
            *(path, *image.shape[-2:], height, width),
        )
        image = fitted(image, height, width, name=str(path))
    entries = {} if pictures is None else pictures.entries(as_probability(image))
    if name in entries:
        return {name: entries[name]}
    if channels == 1:
        if not is_grey(path):
            logger.info("%s: has colours; the model is given their luma", path)
        image = fitted(read_image(path, grey=True)[None], height, width, name=str(path))
    return {name: as_probability(image)}


def _is_picture(context: Context) -> bool:
    return context.dtype.is_floating_point and len(context.shape) == 3 and context.shape[0] in (1, 3)


def in_rows(given: dict[str, Tensor], num: int) -> dict[str, Tensor]:
    """What is given, ``(n, ...)`` each, for ``num`` draws of each, one after another."""
    return {name: value.repeat_interleave(num, 0) for name, value in given.items() if name != X}
