"""A dataset: its splits, and what is known of them beside tensors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.parts import PARTS, Parts, Texts
from pyro_vae.data.rows import Mapped, Rows
from pyro_vae.data.split import Split
from pyro_vae.data.streams import rows_of
from pyro_vae.errors import InputError

logger = logging.getLogger(__name__)


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
            y = split.column("y") if "y" in split.columns else None
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


DataLike = Data | Split | Rows | Mapping[str, Any] | Tensor | np.ndarray | Iterable[Any]  # what data are made of


def as_data(obj: DataLike, num_workers: int = 0) -> Data:
    """Make a :class:`Data` of what the user has in hand.

    Args:
        obj: a ``Data`` (returned as it is); a dict of parts, ``{"train": ..., "validation": ..., "test": ...}``, each
            what :func:`as_split` takes; or that itself.
        num_workers: processes that read a map-style dataset.

    Returns:
        The data; validation and test are None where ``obj`` has none.

    Raises:
        InputError: for anything else, and for what :class:`Split` refuses.
    """
    if isinstance(obj, Data):
        return obj
    if is_parts(obj):
        return Data(**{part: as_split(some, num_workers, name=part) for part, some in _numbered_alike(obj).items()})
    split = as_split(obj, num_workers)
    return Data(split, name=split.name, description=f"{len(split)} data, all of them for training")


def is_parts(obj: Any) -> bool:
    """Whether an object is a dict of parts, of which one is for training."""
    return isinstance(obj, Mapping) and "train" in obj and "x" not in obj and set(obj) <= set(PARTS)


def as_split(obj: DataLike, num_workers: int = 0, name: str = "data") -> Split:
    """Make a :class:`Split` of data.

    Args:
        obj: a ``Split`` (returned as it is); the tensor or array x ``(N, ...)``, or a dict of them with an ``x``, of
            which :class:`numpy.memmap` are read by rows; a map-style dataset or a ``DataLoader``
            (:class:`~pyro_vae.data.streams.Items`); or an iterable of batches
            (:class:`~pyro_vae.data.streams.Batches`). int64 x are integers by nature.
        num_workers: processes that read a map-style dataset.
        name: what errors call the data.

    Raises:
        InputError: for anything else, and for what :class:`Split` refuses.
    """
    if isinstance(obj, Split):
        return obj
    if isinstance(obj, Tensor | np.ndarray):
        obj = {"x": obj}
    numbered: tuple[str, ...] = ()
    if isinstance(obj, Mapping):
        texts = _texts([obj])
        obj, numbered = _with_numbers(obj, texts, name), tuple(texts)
        if any(isinstance(value, np.memmap) for value in obj.values()):
            arrays = {key: value if isinstance(value, np.ndarray) else np.asarray(value) for key, value in obj.items()}
            obj = Mapped(arrays, name)
    rows = obj if isinstance(obj, Rows) else rows_of(obj, num_workers, name)
    if rows is not None:
        integers = rows.columns["x"].dtype == torch.int64
    elif isinstance(obj, dict):
        integers = _integers(obj.get("x"))
    else:
        raise InputError(
            "data must be a Data, a Split, a dict of tensors or arrays with an 'x', a tensor or array (N, ...), a "
            "dataset, a DataLoader or an iterable of batches, got "
            f"{type(obj).__name__}; load_data(name) loads a dataset or a file"
        )
    split = Split(obj if rows is None else rows, integers=integers, name=name)
    split.numbered = numbered
    return split


def _texts(parts: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """What the labels that are texts are in these parts, sorted, by name."""
    found: dict[str, list[np.ndarray]] = {}
    for part in parts:
        for key, value in part.items():
            texts = np.asarray(value) if isinstance(value, list | tuple | np.ndarray) and key != "x" else None
            if texts is not None and texts.dtype.kind == "O" and all(isinstance(each, str) for each in texts.flat):
                texts = texts.astype(str)  # as data frames have them
            if texts is not None and texts.dtype.kind in "US" and texts.ndim == 1:
                found.setdefault(key, []).append(texts)
    return {key: np.unique(np.concatenate(some)) for key, some in found.items()}


def _with_numbers(tensors: Mapping[str, Any], texts: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
    """Labels that are texts become integers, their places in sorted order, and the log says so."""
    numbered = dict(tensors)
    for key, names in texts.items():
        if key in numbered:
            numbered[key] = torch.from_numpy(
                np.searchsorted(names, np.asarray(numbered[key]).astype(names.dtype)).astype(np.int64)
            )
            said = ", ".join(f"{i}: {text}" for i, text in enumerate(names[:10].tolist()))
            logger.info("%s: texts of '%s' became %s%s", name, key, said, ", …" if len(names) > 10 else "")
    return numbered


def _numbered_alike(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Parts in which a text is the same number, though one of them may lack some."""
    texts = _texts([part for part in parts.values() if isinstance(part, Mapping)])
    for part in parts.values():
        for key in texts if isinstance(part, Mapping) else ():
            if key in part and not _texts([{key: part[key]}]):
                raise InputError(f"'{key}' are texts in one part and numbers in another; give either in all of them")
    return {
        name: _with_numbers(part, texts, name) if isinstance(part, Mapping) else part for name, part in parts.items()
    }


def _integers(x: object) -> bool:
    """Whether x are integers by nature: any but uint8, which are grey levels."""
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "iu" and x.dtype != np.uint8
    return isinstance(x, Tensor) and x.dtype == torch.int64


def held_out(obj: DataLike) -> Split:
    """What is measured: of a ``Data`` the test part, else validation; anything else as it is, for it was chosen.

    Args:
        obj: as for :func:`as_data`.

    Raises:
        InputError: for a ``Data`` with training data only, and as :func:`as_data`.
    """
    if is_parts(obj):
        obj = as_data(obj)
    if not isinstance(obj, Data):
        return as_split(obj)
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
        variants: of tensors of a split, integers (N, M, ...), of which a batch has one each
            (:meth:`Split.with_variants`).
    """

    parts: Parts
    names: Texts = field(default_factory=dict)
    captions: Texts = field(default_factory=dict)
    extras: tuple[Extra, ...] = ()
    missing: bool = False
    variants: Parts = field(default_factory=dict)
