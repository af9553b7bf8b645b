"""Scenes of objects that need no font: coloured bars in eight colours."""

import itertools

import torch

from pyro_vae.data import Scenes

NAMES = ("red bar", "green bar", "blue bar", "cyan", "pink", "lemon", "black hole", "grey")
COLOURS = [*itertools.product((0, 200), repeat=3)]


def made_scenes(side: int = 8) -> Scenes:
    """Eight objects: a coloured square with a white notch at a place of its own."""
    bitmaps = torch.empty(8, 3, side, side, dtype=torch.uint8)
    for place, colour in enumerate(COLOURS):
        bitmaps[place] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
        bitmaps[place, :, place % side, : side // 2] = 255
    return Scenes(NAMES, bitmaps)
