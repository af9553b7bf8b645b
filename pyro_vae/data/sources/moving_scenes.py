"""The data ``moving-scenes``: pictures, and the ways in which what they show may move."""

from __future__ import annotations

import torch

from pyro_vae.data.dataset import RawData
from pyro_vae.data.motions import Motions
from pyro_vae.data.moving_scenes import GRID, IMAGE, draw_images, draw_motions, draw_scenes, redrawn
from pyro_vae.data.registry import check_counts, source
from pyro_vae.errors import InputError
from pyro_vae.runtime import check_room

SIZES = {"train": 8_000, "validation": 1_000, "test": 1_000}
SEED = 22


@source(
    "moving-scenes",
    "pictures of 1 or 2 objects (32x32, colour, made here) as image, and as x the trajectories of an 8x8 grid of "
    "points: an object's shape and colour say in which 2 to 4 directions it may move, how probably and how fast; 8,000 "
    "train / 1,000 validation / 1,000 test",
)
def load_moving_scenes(
    limit: int | None, *, frames: int = 10, scenes: int = 8_000, shuffled: bool = False, other_kinds: bool = False
) -> RawData:
    """Draw scenes and motions (:mod:`pyro_vae.data.moving_scenes`, which knows the exact density).

    Args:
        limit: at most so many of each part are drawn.
        frames: steps of a trajectory, 2 to 64.
        scenes: how many for training, at most 100,000.
        shuffled: each datum has the image of another one, which says nothing of its motion: a control.
        other_kinds: images show objects of kinds drawn anew at the places of those that moved, so that they say where
            things move and nothing of how: another control.

    Returns:
        ``image`` float32 (N, 3, 32, 32) in [0, 1]; ``x``, displacements in pixels, float32 (N, 2 * frames, 8, 8): of
        all frames to the right, then of all down.

    Raises:
        InputError: for arguments out of range.
    """
    check_counts(frames=frames, scenes=scenes)
    if not 2 <= frames <= 64 or scenes > 100_000:
        raise InputError(f"moving-scenes: frames must be from 2 to 64, scenes at most 100,000; got {frames}, {scenes}")
    if shuffled and other_kinds:
        raise InputError("moving-scenes: shuffled and other_kinds are two controls: take one of them")
    sizes = {part: min(size, limit or size) for part, size in (SIZES | {"train": scenes}).items()}
    if shuffled and min(sizes.values()) < 2:
        raise InputError("moving-scenes: shuffled is of two scenes or more in every part; one has its own image alone")
    numbers = 3 * IMAGE**2 + 2 * frames * GRID**2
    check_room(f"moving-scenes: scenes={scenes}, frames={frames}", 4 * sum(sizes.values()) * numbers, "give a limit")
    parts = {}
    for i, (part, size) in enumerate(sizes.items()):
        generator = torch.Generator().manual_seed(SEED + i)  # of its own: a part does not depend on another's size
        drawn = draw_scenes(size, generator)
        x, _ = draw_motions(drawn, frames, generator)
        background = 0.45 * torch.rand(size, generator=generator)
        image = draw_images(redrawn(drawn, generator) if other_kinds else drawn, background)
        parts[part] = {"x": x, "image": image.roll(1, 0) if shuffled else image}
    return RawData(parts, extras=(Motions(frames),))
