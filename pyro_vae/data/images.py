"""Images from files: decoding, resizing, and how the files of a folder are a dataset."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from pyro_vae.data.parts import PARTS, random_order
from pyro_vae.data.tensors import LEVELS
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import user_path
from pyro_vae.runtime import check_room

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # no other decoder is tried: some run programs
GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
WHITE = 65535  # of 16 bits
KNOWN_WHITE = ("PNG", "PPM")  # formats whose 16-bit grey levels end at WHITE; of others nobody knows where they end
BITS_PER_SAMPLE = 258  # a tag of TIFF
CHUNK_ELEMENTS = 1 << 24
REMEDY = "save it with 8 bits a channel, grey or RGB, or as a 16-bit grey PNG in which 65535 is white"


def is_grey(path: Path) -> bool:
    """Say whether an image file is grey, from its header.

    Raises:
        CorruptFileError, InputError: as :func:`read_image`.
    """
    with _opened(path) as image:
        return image.mode in GREY_MODES + DEEP_MODES


def read_image(path: Path, *, grey: bool) -> Tensor:
    """Decode an image file, upright as its EXIF data say, transparency laid on white.

    Every entrance for images comes here. Grey levels of 16 bits are rounded to 8 where the format says which of them is
    white: 65535 in PNG and PGM.

    Args:
        path: the file; of several images in it, the first.
        grey: one channel, colours by their luma; else three.

    Returns:
        uint8 (1 or 3, height, width).

    Raises:
        CorruptFileError: naming the file, if it is truncated or damaged.
        InputError: naming the file, if its numbers are of a kind that does not say what is white (floating point, 32
            bits, more than 8 bits in TIFF) or no grey levels or colours; and if it has more pixels than Pillow takes
            for safe (``PIL.Image.MAX_IMAGE_PIXELS``, 89 million), or too many for the memory.
    """
    with _opened(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode in DEEP_MODES:
            image = _eight_bits(image)
        if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        pixels = np.array(image.convert("L" if grey else "RGB"))
    tensor = torch.from_numpy(pixels)
    return tensor.unsqueeze(0) if grey else tensor.permute(2, 0, 1).contiguous()  # (C, H, W)


def square(x: Tensor, size: int, *, name: str = "data") -> Tensor:
    """Cut images to their central square and resize them (bilinear, antialiased), in bounded memory.

    Args:
        x: (N, C, H, W) uint8 or floating point.
        size: pixels a side of the result.
        name: what errors call the data.

    Returns:
        (N, C, size, size) of the same dtype; x itself if it has this size already.

    Raises:
        InputError: if x are no images, or binary, or would not fit the memory.
    """
    if x.dim() > 3 and x.shape[-2:] == (size, size):
        return x
    if x.dim() != 4:
        raise InputError(f"{name}: image_size is for images, but one x has shape {tuple(x.shape[1:])}; leave it out")
    if tuple(x.shape[-2:]) != (size, size) and x.dtype == torch.bool:
        sides = f"{x.shape[-2]} x {x.shape[-1]}"
        raise InputError(f"{name}: binary images cannot be resized to image_size={size}; they are {sides}")
    return fitted(x, size, size, name=f"{name}: image_size={size}")


def squares(tensors: Mapping[str, Tensor], size: int, *, name: str = "data") -> dict[str, Tensor]:
    """A split's tensors, of which x and what pictures there are beside it are cut and resized as :func:`square` does.

    Args:
        tensors: ``x`` (N, C, H, W), and others by name; of ``frames`` every one.
        size, name: as there.
    """
    found = {**tensors, "x": square(tensors["x"], size, name=name)}
    for key, value in tensors.items():
        if key in LEVELS and key != "x" and value.dim() > 3:
            flat = value.reshape(-1, *value.shape[-3:])
            found[key] = square(flat, size, name=f"{name}: '{key}'").reshape(*value.shape[:-2], size, size)
    return found


def fitted(x: Tensor, height: int, width: int, *, name: str) -> Tensor:
    """Cut images to the middle of other proportions and resize them (bilinear, antialiased), in bounded memory.

    Args:
        x: (N, C, H, W) uint8 or floating point.
        height, width: of the result.
        name: what errors call the data.

    Returns:
        (N, C, height, width) of the same dtype; x itself if it has this size already.

    Raises:
        InputError: if the result would not fit the memory.
    """
    rows, columns = x.shape[-2:]
    if (rows, columns) == (height, width):
        return x
    wide = rows * width < columns * height  # of columns there are too many
    down, across = (rows, max(1, rows * width // height)) if wide else (max(1, columns * height // width), columns)
    top, left = (rows - down) // 2, (columns - across) // 2
    x = x[..., top : top + down, left : left + across]
    check_room(name, math.prod(x.shape[:2]) * height * width * x.element_size(), "give a smaller one")
    result = x.new_empty(*x.shape[:2], height, width)
    step = max(1, CHUNK_ELEMENTS // x[0].numel())
    for source, target in zip(x.split(step), result.split(step), strict=True):
        resized = F.interpolate(source, size=(height, width), mode="bilinear", antialias=True)
        if source.is_floating_point():  # means of what is there are within it, but for their rounding
            resized = resized.clamp(*source.aminmax())
        target.copy_(resized)
    return result


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image whose mode can be read; whatever the decoders raise and warn of, here and in the block, is damage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                _check_mode(path, image)
                yield image
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: too large an image ({' '.join(str(error).split())}); make it smaller, or set "
            "PIL.Image.MAX_IMAGE_PIXELS in Python if you know where it is from"
        ) from error
    except MemoryError as error:
        raise InputError(f"{path}: too large an image for the memory; make it smaller") from error
    except Exception as error:  # decoders of damaged files raise all kinds
        raise CorruptFileError(f"{path}: not a readable image ({error}); replace or remove the file") from error


def _check_mode(path: Path, image: Image.Image) -> None:
    mode, kind = image.mode, image.format
    if mode not in GREY_MODES + COLOUR_MODES + DEEP_MODES:
        raise InputError(f"{path}: pixel format '{mode}' ({kind}) is not supported; {REMEDY}")
    bits = image.tag_v2.get(BITS_PER_SAMPLE, 8) if kind == "TIFF" else 8  # type: ignore[attr-defined]
    deep = max(bits) > 8 if isinstance(bits, tuple) else bits > 8
    if deep or (mode in DEEP_MODES and kind not in KNOWN_WHITE):
        raise InputError(
            f"{path}: pixel format '{mode}' ({kind}), of more than 8 bits, does not say which number is white; {REMEDY}"
        )


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey levels, 65535 white, rounded to 8 bits; with an alpha channel where a level is transparent."""
    levels = np.array(image).astype(np.int64).clip(0, WHITE)
    grey = Image.fromarray(((levels * 255 + WHITE // 2) // WHITE).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    return grey


VARIABLE = "PYRO_VAE_DATA"
SYSTEM = Path("/usr/share/datasets")  # Debian's dataset-* packages


def cache_folder() -> Path:
    """Return the folder that downloads go to: ~/.cache/pyro_vae."""
    return Path.home() / ".cache" / "pyro_vae"


def data_folders(root: Path | None) -> list[Path]:
    """Return the folders to search, in order: root, $PYRO_VAE_DATA, ~/.cache/pyro_vae."""
    folders = [] if root is None else [root]
    if os.environ.get(VARIABLE):
        folders.append(user_path(os.environ[VARIABLE]))
    return [*folders, cache_folder()]


Labelled = list[tuple[Path, str | None]]  # files with the class's name, in sorted order


@dataclass(frozen=True)
class Kind:
    """A kind of files: what people call them, and their suffixes."""

    noun: str
    suffixes: tuple[str, ...]


IMAGES, SOUNDS = Kind("images", SUFFIXES), Kind("WAV files", (".wav", ".wave"))
TEXTS = Kind("text files", (".txt",))  # of a folder that holds neither: beside images they may be captions


def kind_of(path: Path) -> Kind:
    """What a folder holds: the kind of the first image or WAV file found, going down from the folder itself; if there
    is none, texts, if there are any; else images.
    """
    found = IMAGES
    for folder in _downwards(path):
        for file in folder.iterdir():
            for kind in (IMAGES, SOUNDS):
                if _is_one(file, kind):
                    return kind
            found = TEXTS if _is_one(file, TEXTS) else found
    return found


def find_splits(path: Path, kind: Kind) -> dict[str, Labelled]:
    """The files of each split; without split folders they are split at random (seed 0), 80% / 10% / 10%.

    Hidden files and folders are passed over, and files of neither kind.

    Raises:
        InputError: naming the folder, for other layouts, folders without files of the kind, and with both kinds.
    """
    folders = _visible_folders(path)
    if given_parts(path):
        splits = _given_splits(path, folders, kind)
    else:
        everything = _list_files(path, kind)
        order = random_order(len(everything))
        splits = {part: [everything[i] for i in index.tolist()] for part, index in order.items()}
    _check_classes(path, splits)
    return splits


def given_parts(path: Path) -> bool:
    """Whether a folder is divided into parts, rather than split at random."""
    return any(folder.name in PARTS for folder in _visible_folders(path))


def is_paired(path: Path, names: Sequence[str]) -> bool:
    """Whether a folder, or its part for training, has folders of these names and no others."""
    folder = path / "train" if given_parts(path) else path
    return folder.is_dir() and {each.name for each in _visible_folders(folder)} == {*names}


def image_files(path: Path) -> list[Path]:
    """The image files of a folder, sorted.

    Raises:
        InputError: for WAV files, which cannot be among them.
    """
    return _files_in(path, IMAGES)


def class_names(splits: dict[str, Labelled]) -> list[str]:
    """The names of the classes in sorted order, so that a label is a place in it; none without class folders."""
    return sorted({label for _, label in splits["train"] if label is not None})


def _given_splits(path: Path, folders: list[Path], kind: Kind) -> dict[str, Labelled]:
    for entry in [*folders, *_files_in(path, kind)]:
        if entry.name not in PARTS:
            raise InputError(f"{entry}: beside split folders there may only be {', '.join(PARTS)}; rename or move it")
    if not (path / "train").is_dir():
        raise InputError(f"{path}: has split folders but no 'train'")
    return {part: _list_files(path / part, kind) for part in PARTS if (path / part).is_dir()}


def _list_files(path: Path, kind: Kind) -> Labelled:
    flat, folders = _files_in(path, kind), _visible_folders(path)
    if flat and folders:
        raise InputError(f"{path}: holds both {kind.noun} and sub-folders ('{folders[0].name}'); use one or the other")
    found: Labelled = [(file, None) for file in flat]
    for folder in folders:
        files = _files_in(folder, kind)
        if not files:
            looked = ", ".join(kind.suffixes)
            raise InputError(f"{folder}: no {kind.noun} in this class folder ({looked}); remove it or fill it")
        found += [(file, folder.name) for file in files]
    if not found:
        looked = ", ".join(IMAGES.suffixes + SOUNDS.suffixes + TEXTS.suffixes)
        nouns = f"no {IMAGES.noun} in this folder, and no {SOUNDS.noun} or {TEXTS.noun}"
        raise InputError(f"{path}: {nouns}; looked for {looked}")
    return found


def _files_in(path: Path, kind: Kind) -> list[Path]:
    other = SOUNDS if kind is IMAGES else IMAGES
    entries = list(path.iterdir())
    stranger = next((file for file in entries if _is_one(file, other)), None)
    if stranger is not None:
        raise InputError(f"{stranger}: the dataset is of {kind.noun}; {other.noun} cannot be among them")
    return sorted(file for file in entries if _is_one(file, kind))


def _is_one(file: Path, kind: Kind) -> bool:
    return file.suffix.lower() in kind.suffixes and not file.name.startswith(".") and file.is_file()


def _visible_folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _downwards(path: Path, levels: int = 2) -> Iterator[Path]:
    yield path
    if levels:
        for folder in _visible_folders(path):
            yield from _downwards(folder, levels - 1)


def _check_classes(path: Path, splits: dict[str, Labelled]) -> None:
    classes = class_names(splits)
    for part, members in splits.items():
        for file, label in members:
            if (label is None) == bool(classes) or (label is not None and label not in classes):
                raise InputError(f"{file.parent}: {part} must have the class folders of train ({', '.join(classes)})")


def shown(name: object) -> str:
    """A name as text: what in it is not UTF-8 (a lone surrogate to Python) is written out, ``\\udcff``."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def file_names(root: Path, splits: dict[str, Labelled]) -> dict[str, tuple[str, ...]]:
    """The names of a dataset's files by split: their paths from its folder."""
    return {
        part: tuple(shown(file.relative_to(root).as_posix()) for file, _ in members) for part, members in splits.items()
    }
