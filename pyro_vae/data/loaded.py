"""What a loader returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        names: one a datum by split, if the data have them, such as those of their files.
        classes: the names of the labels ``y``, if they have them, in order.
    """

    parts: Parts
    captions: Captions | None = None
    sound: Sound | None = None
    scenes: Scenes | None = None
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
