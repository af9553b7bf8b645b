"""A dataset: its splits, and what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.scenes import Scenes
from pyro_vae.data.sound import Sound
from pyro_vae.data.split import Captions, Parts, Split
from pyro_vae.errors import InputError


@dataclass(frozen=True)
class Data:
    """A dataset's splits, and a line or two that say how they were made.

    Args:
        train: the training data.
        validation: the validation data, if any.
        test: the test data, if any.
        name: its name, e.g. ``"mnist5k"``.
        description: sizes of the splits, binarization and its seed.
        sound: how x is played, if the data are sound, of shape (1, length).
        captions: by part ("train", …), one a datum, if the data have them.
        scenes: what x is composed of, if the data are scenes.
        classes: the names of the labels ``y``, in order, if they have names.

    Raises:
        InputError: if the splits' data have different shapes, or sound another shape, captions are missing, or a label
            has no name where others have one.
    """

    train: Split
    validation: Split | None = None
    test: Split | None = None
    name: str = "data"
    description: str = ""
    sound: Sound | None = None
    captions: Mapping[str, tuple[str, ...]] | None = None
    scenes: Scenes | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check that one model fits all splits."""
        for part in ("validation", "test"):
            split = getattr(self, part)
            if split is not None and split.shape != self.train.shape:
                raise InputError(
                    f"{self.name}: x has shape {self.train.shape} in train but {split.shape} in {part}; "
                    "all splits must have the same"
                )
        if self.sound is not None and (len(self.train.shape) != 2 or self.train.shape[0] != 1):
            raise InputError(f"{self.name}: sound has shape (1, length), but one x has shape {self.train.shape}")
        for split in (self.train, self.validation, self.test) if self.classes is not None else ():
            y = None if split is None else split.tensors.get("y")
            if y is not None and not (y.dtype == torch.int64 and 0 <= y.min() and y.max() < len(self.classes)):
                raise InputError(
                    f"{split.name}: y must be labels from 0 to {len(self.classes) - 1}, as there are classes"
                )
        for part in ("train", "validation", "test") if self.captions is not None else ():
            size, told = len(getattr(self, part) or ()), len(self.captions.get(part, ()))
            if size != told:
                raise InputError(f"{self.name}: {told} captions for {size} data of {part}; there must be one a datum")


def as_data(obj: Data | Split | Mapping[str, Tensor | np.ndarray] | Tensor | np.ndarray) -> Data:
    """Make a :class:`Data` of what the user has in hand.

    Args:
        obj: a ``Data`` (returned as it is), a ``Split``, a dict of tensors or of arrays of NumPy with an ``x``, or the
            tensor or array x, shape (N, ...).

    Returns:
        The data; validation and test are None where ``obj`` has none.

    Raises:
        InputError: for anything else, and for what :class:`Split` refuses.
    """
    if isinstance(obj, Data):
        return obj
    if isinstance(obj, Tensor | np.ndarray):
        obj = {"x": obj}
    if isinstance(obj, Mapping):
        obj = Split(dict(obj))
    if isinstance(obj, Split):
        return Data(obj, name=obj.name, description=f"{len(obj)} data, all of them for training")
    raise InputError(
        "data must be a Data, a Split, a dict of tensors or arrays with an 'x', or a tensor or array (N, ...), "
        f"got {type(obj).__name__}; load_data(name) loads a dataset or a file by name"
    )


def held_out(obj: Data | Split | Mapping[str, Tensor | np.ndarray] | Tensor | np.ndarray) -> Split:
    """What is measured: of a ``Data`` the test part, else validation; anything else as it is, for it was chosen.

    Args:
        obj: as for :func:`as_data`.

    Raises:
        InputError: for a ``Data`` with training data only, and as :func:`as_data`.
    """
    if not isinstance(obj, Data):
        return as_data(obj).train
    split = obj.test if obj.test is not None else obj.validation
    if split is None:
        raise InputError(
            f"{obj.name}: these data have training data only, and what was trained on says little of what was not. "
            "Give the data a test or validation part, or pass data.train to measure the training data"
        )
    return split


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
