"""Images as tensors: decoding a file, cutting to a square, resizing."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from pyro_vae.errors import CorruptFileError, InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("P", "RGB", "RGBA", "CMYK", "YCbCr", "PA")
CHUNK_ELEMENTS = 1 << 24
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)  # what Pillow raises


def is_grey(path: Path) -> bool:
    """Say whether an image file is grey, from its header.

    Raises:
        CorruptFileError: naming the file, if it is no readable image.
        InputError: naming the file, if it has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
    except DAMAGE as error:
        raise _damaged(path, error) from error
    if mode not in GREY_MODES + COLOUR_MODES:
        raise InputError(f"{path}: pixel format '{mode}' is not supported; save it with 8 bits a channel, grey or RGB")
    return mode in GREY_MODES


def read_image(path: Path, *, grey: bool) -> Tensor:
    """Decode an image file, upright as its EXIF data say, transparency laid on white.

    Returns:
        uint8 (1 or 3, height, width).

    Raises:
        CorruptFileError: naming the file, if it is truncated or damaged.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
                rgba = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            pixels = np.array(image.convert("L" if grey else "RGB"))
    except DAMAGE as error:
        raise _damaged(path, error) from error
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
        InputError: if x are no images, or binary.
    """
    if x.dim() != 4:
        raise InputError(f"{name}: image_size is for images, but one x has shape {tuple(x.shape[1:])}; leave it out")
    height, width = x.shape[-2:]
    if (height, width) == (size, size):
        return x
    if x.dtype == torch.bool:
        raise InputError(f"{name}: binary images cannot be resized to image_size={size}; they are {height} x {width}")
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    x = x[..., top : top + side, left : left + side]
    result = x.new_empty(*x.shape[:2], size, size)
    step = max(1, CHUNK_ELEMENTS // x[0].numel())
    for source, target in zip(x.split(step), result.split(step), strict=True):
        target.copy_(F.interpolate(source, size=(size, size), mode="bilinear", antialias=True))
    return result


def _damaged(path: Path, error: Exception) -> CorruptFileError:
    return CorruptFileError(f"{path}: not a readable image ({error}); replace or remove the file")
