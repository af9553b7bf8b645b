"""Emoji of the Noto colour font: bitmaps with names, and scenes composed of them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pyro_vae.data.combinations import FEWEST, draw_scenes
from pyro_vae.data.images import square
from pyro_vae.data.loaded import Loaded
from pyro_vae.data.parts import random_order
from pyro_vae.data.places import data_folders
from pyro_vae.data.scenes import Scenes
from pyro_vae.errors import CorruptFileError, InputError

FONT = "NotoColorEmoji.ttf"
FONT_FOLDERS = (
    Path("/usr/share/fonts/truetype/noto"),  # Debian, Ubuntu
    Path("/usr/share/fonts/noto"),  # Arch
    Path("/usr/share/fonts/google-noto-color-emoji-fonts"),  # Fedora
)
STRIKE, WIDTH, HEIGHT = 109, 136, 128  # the one size of the font's bitmaps
BLOCKS = (range(0x2000, 0x3300), range(0x1F000, 0x1FB00))  # code points among which all single emoji are
IMAGE_SIZE, OBJECTS, SCENES = 32, 16, 20_000
# The most distinguishable ones, each the farthest (mean squared error at 16 x 16) from those before it and from white:
NAMES = (
    *("mouse face", "red apple", "camera", "broccoli", "cherries", "rose", "rainbow", "top hat", "blue heart"),
    *("magnet", "automobile", "tiger face", "bell", "dress", "soccer ball", "frog face", "alarm clock"),
    *("deciduous tree", "bomb", "bread", "key", "maple leaf", "steam locomotive", "airplane", "evergreen tree"),
    *("pineapple", "dolphin", "books", "athletic shoe", "cooking", "trophy", "fox face", "tractor", "toolbox"),
    *("crescent moon", "mushroom", "bug", "lady beetle", "penguin", "strawberry", "rocket", "cheese wedge", "avocado"),
    *("robot face", "honeybee", "turtle", "french fries", "drum with drumsticks"),
)


def load_emoji(root: Path | None, image_size: int | None, objects: int | None, scenes: int | None) -> Loaded:
    """Load composed scenes (:mod:`pyro_vae.data.combinations` says of which combinations).

    Args:
        root: a folder in which the font is looked for first.
        image_size: pixels a side, 32 if None; an object has half as many.
        objects: how many different ones, 16 if None.
        scenes: how many for training, 20,000 if None.

    Returns:
        ``x`` uint8 (N, 3, image_size, image_size), captions, and what the scenes are made of.

    Raises:
        InputError: if the font is missing, or for arguments out of range.
        CorruptFileError: if it is damaged.
    """
    size, objects, scenes = image_size or IMAGE_SIZE, objects or OBJECTS, scenes or SCENES
    if size % 4 or not 16 <= size <= 2 * HEIGHT:
        raise InputError(
            f"emoji: image_size must be a multiple of 4 from 16 to {2 * HEIGHT} (two objects stand in the middle), "
            f"got {size}"
        )
    if not FEWEST <= objects <= len(NAMES):
        raise InputError(f"emoji: objects must be from {FEWEST} to {len(NAMES)}, got {objects}")
    if scenes < 4:
        raise InputError(f"emoji: scenes must be 4 or more, got {scenes}")
    names = NAMES[:objects]
    bitmaps = draw_emoji([unicodedata.lookup(name.upper()) for name in names], root)
    made_of = Scenes(names, square(bitmaps, size // 2))
    parts, captions = {}, {}
    for part, (layout, which) in draw_scenes(objects, scenes).items():
        parts[part] = {"x": made_of.draw(layout, which)}
        captions[part] = made_of.captions(layout, which)
    return Loaded(parts, captions=captions, scenes=made_of)


def load_emoji_names(root: Path | None, image_size: int | None) -> Loaded:
    """Load every emoji that is one code point, with its name, split at random (seed 0) into 80% / 10% / 10%.

    Args:
        root: a folder in which the font is looked for first.
        image_size: pixels a side, 32 if None.

    Returns:
        ``x`` uint8 (N, 3, image_size, image_size), captions.

    Raises:
        InputError: if the font is missing.
        CorruptFileError: if it is damaged.
    """
    signs = [chr(i) for block in BLOCKS for i in block if unicodedata.category(chr(i)) == "So"]
    bitmaps = draw_emoji(signs, root)
    there = (bitmaps != 255).flatten(1).any(1).nonzero()[:, 0]  # the font draws nothing for others
    x = square(bitmaps[there], image_size or IMAGE_SIZE)
    names = [unicodedata.name(signs[i]).lower() for i in there.tolist()]
    order = random_order(len(x))
    captions = {part: tuple(names[i] for i in index.tolist()) for part, index in order.items()}
    return Loaded({part: {"x": x[index]} for part, index in order.items()}, captions=captions)


def draw_emoji(signs: list[str], root: Path | None = None) -> Tensor:
    """Draw emoji on white, as large as the font has them.

    Args:
        signs: one character each.
        root: a folder in which the font is looked for first.

    Returns:
        uint8 ``(len(signs), 3, 128, 136)``; white for a character that the font does not have.

    Raises:
        InputError: if the font is missing (what to install).
        CorruptFileError: if it is damaged, or not the one with bitmaps.
    """
    path = _find(root)
    pixels = np.empty((len(signs), HEIGHT, WIDTH, 3), np.uint8)
    try:
        with path.open("rb") as file:  # of a path that it cannot read Pillow takes a font of the same name elsewhere
            font = ImageFont.truetype(file, STRIKE)
        for place, sign in enumerate(signs):
            image = Image.new("RGB", (WIDTH, HEIGHT), "white")
            ImageDraw.Draw(image).text((0, 0), sign, font=font, embedded_color=True)
            pixels[place] = np.asarray(image)
    except (OSError, ValueError) as error:
        raise CorruptFileError(
            f"{path}: cannot be drawn ({error}); the font with bitmaps is needed: apt-get install "
            "fonts-noto-color-emoji"
        ) from error
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _find(root: Path | None) -> Path:
    folders = [*data_folders(root), *FONT_FOLDERS]
    for folder in folders:
        if (folder / FONT).is_file():
            return folder / FONT
    raise InputError(
        f"emoji are drawn from the font {FONT}, which is not there (looked in {', '.join(map(str, folders))}): "
        "apt-get install fonts-noto-color-emoji, or copy the file to one of these folders"
    )
