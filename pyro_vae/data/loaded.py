"""What a loader returns."""

from __future__ import annotations

from dataclasses import dataclass

from pyro_vae.data.parts import Captions, Parts
from pyro_vae.data.scenes import Scenes
from pyro_vae.data.sound import Sound


@dataclass(frozen=True)
class Loaded:
    """Data before limits and binarization.

    Args:
        parts: raw tensors by split.
        captions: one a datum by split, if the data have them.
        sound: how x is played, if the data are sound.
        scenes: what the images are composed of, if they are scenes.
    """

    parts: Parts
    captions: Captions | None = None
    sound: Sound | None = None
    scenes: Scenes | None = None
