"""Emoji of the Noto colour font: bitmaps with names, and scenes composed of them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pyro_vae.data.dataset import RawData
from pyro_vae.data.images import data_folders, square
from pyro_vae.data.parts import PARTS, SPLIT_SEED, random_order
from pyro_vae.data.registry import check_counts, source
from pyro_vae.data.scenes import ABOVE, GRID, LEFT_OF, PLACES, Scenes
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.runtime import check_room

GRIDS_PER_PAIR = 3  # scenes of four objects to every one of two
FEWEST = 8  # objects: with fewer there are hardly any scenes of four for training


def combinations(num_objects: int) -> Tensor:
    """To which part of the data each combination belongs: an ordered pair of objects with a relation.

    Entry (r, a, b) is of "a left of b" (r = 0) or "a above b" (r = 1): 0 for training, 1 for validation, 2 for test. An
    eighth of the combinations is for test, a sixteenth for validation (at least one per object and role), such that
    every object is as often the first and the second of a held-out combination of each relation as any other.

    Returns:
        int64 ``(2, num_objects, num_objects)``; the diagonal, which no scene has, is 0.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    for_test, for_validation = max(1, round(num_objects / 8)), max(1, round(num_objects / 16))
    part = torch.zeros(2, num_objects, num_objects, dtype=torch.long)
    places = torch.arange(num_objects)
    for relation in (LEFT_OF, ABOVE):
        circle = torch.randperm(num_objects, generator=generator)
        steps = torch.randperm(num_objects - 1, generator=generator) + 1  # of those on a circle: a and the s-th after
        for place, step in enumerate(steps[: for_test + for_validation].tolist()):
            part[relation, circle, circle[(places + step) % num_objects]] = 2 if place < for_test else 1
    return part


def draw_scenes(num_objects: int, num_train: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Draw scenes, the same ones for the same arguments.

    Training: ``num_train`` scenes, a quarter of two objects and the others of four, all different within a scene;
    none has a held-out combination, neither as the two objects of a scene nor as neighbours among four.
    Validation and test: each of their combinations as a scene of two, and three times as many different scenes of four
    which have at least one of them, and none of the other part's.

    Returns:
        by part: layout int64 ``(N,)`` and objects int64 ``(N, 4)``, -1 where there are two.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    part, drawn = combinations(num_objects), {}
    for place, name in enumerate(PARTS):
        pairs = _pairs(part, place)
        if name == "train":
            few = num_train // (1 + GRIDS_PER_PAIR)
            pairs = pairs[torch.randint(len(pairs), (few,), generator=generator)]
            grids = _grids(part, place, num_train - few, generator)
        else:
            grids = _grids(part, place, GRIDS_PER_PAIR * len(pairs), generator)
        scenes = torch.cat([pairs, grids])[torch.randperm(len(pairs) + len(grids), generator=generator)]
        drawn[name] = scenes[:, 0], scenes[:, 1:]
    return drawn


def _pairs(part: Tensor, place: int) -> Tensor:
    """All combinations of one part, ``(n, 1 + 4)``: relation, objects."""
    different = ~torch.eye(part.shape[1], dtype=torch.bool)
    found = ((part == place) & different).nonzero()  # (n, 3)
    return torch.cat([found, found.new_full((len(found), PLACES - 2), -1)], 1)


def _grids(part: Tensor, place: int, count: int, generator: torch.Generator) -> Tensor:
    """Scenes of four of one part, ``(count, 1 + 4)``; those of validation and test all different."""
    found = torch.empty(0, PLACES, dtype=torch.long)
    while len(found) < count:
        some = torch.rand(4 * count, part.shape[1], generator=generator).argsort(1)[:, :PLACES]  # all different
        a, b, c, d = some.unbind(1)
        beside = part[LEFT_OF, a, b], part[LEFT_OF, c, d], part[ABOVE, a, c], part[ABOVE, b, d]
        neighbours = torch.stack(beside, 1)  # (4 * count, 4)
        fits = ((neighbours == 0) | (neighbours == place)).all(1) & (neighbours == place).any(1)
        found = torch.cat([found, some[fits]])
        if place:
            found = _different(found)
    return torch.cat([found.new_full((count, 1), GRID), found[:count]], 1)


def _different(rows: Tensor) -> Tensor:
    """The rows without repetitions, in their order."""
    _, which = rows.unique(dim=0, return_inverse=True)
    first = torch.full((int(which.max()) + 1,) if len(rows) else (0,), len(rows))
    first.scatter_reduce_(0, which, torch.arange(len(rows)), "amin")
    return rows[first.sort().values]


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


@source(
    "emoji",
    "scenes of two or four emoji of 16 (drawn here, 32x32 RGB; objects, scenes and image_size change it) with "
    "captions; of held-out combinations in validation and test; 20,000 train / 128 validation / 256 test",
)
def load_emoji(root: Path | None, image_size: int | None, *, objects: int = OBJECTS, scenes: int = SCENES) -> RawData:
    """Load composed scenes (:mod:`pyro_vae.data.sources.emoji` says of which combinations).

    Args:
        root: a folder in which the font is looked for first.
        image_size: pixels a side, 32 if None; an object has half as many.
        objects: how many different ones there are, 8 to 48; 16 if it is not said.
        scenes: how many for training; 20,000 if it is not said.

    Returns:
        ``x`` uint8 (N, 3, image_size, image_size), captions, and what the scenes are made of.

    Raises:
        InputError: if the font is missing, or for arguments out of range.
        CorruptFileError: if it is damaged.
    """
    check_counts(objects=objects, scenes=scenes)
    size = image_size or IMAGE_SIZE
    if size % 4 or not 16 <= size <= 2 * HEIGHT:
        raise InputError(
            f"emoji: image_size must be a multiple of 4 from 16 to {2 * HEIGHT} (two objects stand in the middle), "
            f"got {size}"
        )
    if not FEWEST <= objects <= len(NAMES):
        raise InputError(f"emoji: objects must be from {FEWEST} to {len(NAMES)}, got {objects}")
    if scenes < 4:
        raise InputError(f"emoji: scenes must be 4 or more, got {scenes}")
    check_room(f"emoji: scenes={scenes}", scenes * 3 * size**2, "give fewer")
    names = NAMES[:objects]
    bitmaps = draw_emoji([unicodedata.lookup(name.upper()) for name in names], root)
    made_of = Scenes(names, square(bitmaps, size // 2))
    parts, captions = {}, {}
    for part, (layout, which) in draw_scenes(objects, scenes).items():
        parts[part] = {"x": made_of.draw(layout, which)}
        captions[part] = made_of.captions(layout, which)
    return RawData(parts, captions=captions, extras=(made_of,))


@source(
    "emoji-names",
    "1,373 emoji of the Noto colour font, each with its name as caption, 32x32 RGB unless image_size says otherwise; "
    "80% train / 10% validation / 10% test",
)
def load_emoji_names(root: Path | None, image_size: int | None) -> RawData:
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
    return RawData({part: {"x": x[index]} for part, index in order.items()}, captions=captions)


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
