"""A dataset: its splits, and what is known of them beside tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.split import Parts, Split, Texts
from pyro_vae.errors import InputError


class Extra:
    """What a source knows of its data beside tensors: a subclass for every kind of thing that can be known.

    What every datum has of its own (names, captions) is in its :class:`Split`.
    """

    def check(self, data: Data) -> None:
        """Check that it can be true of the data.

        Raises:
            InputError: if it cannot.
        """

    def describe(self, train: Split) -> str:
        """A line on it for ``Data.description``, or nothing."""
        return ""


Known = TypeVar("Known", bound=Extra)


@dataclass(frozen=True)
class Classes(Extra):
    """The names of labels.

    Args:
        names: of the labels ``y``, in order.
    """

    names: tuple[str, ...]

    def check(self, data: Data) -> None:
        """Every label that is known has a name."""
        for split in data.splits.values():
            y = split.tensors.get("y")
            if y is not None and not (y.dtype == torch.int64 and -1 <= y.min() and y.max() < len(self.names)):
                raise InputError(
                    f"{split.name}: y must be labels from 0 to {len(self.names) - 1} (of the classes) or -1 (not known)"
                )


@dataclass(frozen=True)
class Data:
    """A dataset's splits, and a line or two that say how they were made.

    Args:
        train: the training data.
        validation: the validation data, if any.
        test: the test data, if any.
        name: its name, e.g. ``"mnist5k"``.
        description: sizes of the splits, binarization and its seed.
        extras: what is known beside tensors, one of a kind: :class:`Classes`, :class:`~pyro_vae.data.Sound`,
            :class:`~pyro_vae.data.Scenes`; :meth:`extra` finds them.

    Raises:
        InputError: if the splits' data have different shapes, some splits have captions and others none, or an extra
            does not fit the data.
    """

    train: Split
    validation: Split | None = None
    test: Split | None = None
    name: str = "data"
    description: str = ""
    extras: Sequence[Extra] = ()

    def __post_init__(self) -> None:
        """Check that one model fits all splits, and what is known of them."""
        for part, split in self.splits.items():
            if split.shape != self.train.shape:
                raise InputError(
                    f"{self.name}: x has shape {self.train.shape} in train but {split.shape} in {part}; "
                    "all splits must have the same"
                )
            if (split.captions is None) != (self.train.captions is None):
                with_, without = (part, "train") if self.train.captions is None else ("train", part)
                raise InputError(f"{self.name}: {with_} has captions and {without} has none; give all of them some")
        if len({type(extra) for extra in self.extras}) < len(self.extras):
            raise InputError(f"{self.name}: two extras of one kind, {', '.join(type(e).__name__ for e in self.extras)}")
        for extra in self.extras:
            extra.check(self)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are, by part: ``"train"``, ``"validation"``, ``"test"``."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {part: split for part, split in parts.items() if split is not None}

    def extra(self, kind: type[Known]) -> Known | None:
        """What is known of one kind, ``data.extra(Sound)``; None, if nothing is."""
        return next((extra for extra in self.extras if isinstance(extra, kind)), None)


def as_data(obj: Data | Split | Mapping[str, Tensor | np.ndarray] | Tensor | np.ndarray) -> Data:
    """Make a :class:`Data` of what the user has in hand.

    Args:
        obj: a ``Data`` (returned as it is), a ``Split``, a dict of tensors or of arrays of NumPy with an ``x``, or the
            tensor or array x, shape (N, ...); int64 are integers by nature.

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
        obj = Split(dict(obj), integers=_integers(obj.get("x")))
    if isinstance(obj, Split):
        return Data(obj, name=obj.name, description=f"{len(obj)} data, all of them for training")
    raise InputError(
        "data must be a Data, a Split, a dict of tensors or arrays with an 'x', or a tensor or array (N, ...), "
        f"got {type(obj).__name__}; load_data(name) loads a dataset or a file by name"
    )


def _integers(x: object) -> bool:
    """Whether x are integers by nature: any but uint8, which are grey levels."""
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "iu" and x.dtype != np.uint8
    return isinstance(x, Tensor) and x.dtype == torch.int64


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
class RawData:
    """Data as a source has them, before limits and binarization.

    Args:
        parts: raw tensors by split.
        names: one a datum by split, if the data have them, such as those of their files.
        captions: one a datum by split, if the data have them.
        extras: what is known beside tensors.
        missing: NaN in x are entries that are not known.
    """

    parts: Parts
    names: Texts = field(default_factory=dict)
    captions: Texts = field(default_factory=dict)
    extras: tuple[Extra, ...] = ()
    missing: bool = False
