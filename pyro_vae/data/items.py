"""Items of a user's dataset, and batches of a user's iterable, as tensors by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.rows import Column
from pyro_vae.data.tensors import LEVELS, as_tensor
from pyro_vae.errors import InputError, ReadError


class OddItem(Exception):
    """An item that is not like the first of its batch."""

    def __init__(self, place: int, said: str) -> None:
        super().__init__(said)
        self.place = place


WHAT = "an item must be a tensor or array x, a tuple (x, y), or a dict with an x"


def named_values(item: Any, name: str) -> Mapping[str, Any]:
    """An item, or a batch, by name."""
    if isinstance(item, Mapping):
        if "x" not in item:
            raise InputError(f"{name}: {WHAT}; got a dict of {', '.join(map(str, item))}: rename one of them to x")
        return item
    fields = getattr(item, "_fields", None)
    if fields is not None and "x" in fields:
        return dict(zip(fields, item, strict=True))
    if isinstance(item, tuple | list):
        if not 1 <= len(item) <= 2:
            raise InputError(f"{name}: {WHAT}; got a {type(item).__name__} of {len(item)}: make a dict of it")
        return dict(zip(("x", "y"), item, strict=False))
    return {"x": item}


def copied(item: Any) -> Any:
    """An item with copies of its tensors and arrays: a dataset may hand out one buffer again and again."""
    if isinstance(item, Tensor):
        return item.detach().clone()
    if isinstance(item, np.ndarray):
        return item.copy()
    if type(item) is dict:
        return {key: copied(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        values = [copied(value) for value in item]
        return type(item)(*values) if hasattr(item, "_fields") else type(item)(values)
    return item


def as_value(value: Any, key: str, name: str) -> Tensor:
    """One entry of an item as a tensor."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, str | bytes) or (isinstance(value, np.ndarray) and value.dtype.kind in "USO"):
        raise InputError(
            f"{name}: '{key}' is a text ({str(value)[:40]!r}): map texts to integers in the dataset, such as "
            "labels.index(text)"
        )
    try:
        return as_tensor(np.asarray(value), f"{name}: '{key}'", integers=key not in LEVELS)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {WHAT}; '{key}' is a {type(value).__name__}") from error


def stacked(items: Sequence[Any], name: str) -> dict[str, Tensor]:
    """Items as a batch."""
    rows = [{key: as_value(value, key, name) for key, value in named_values(item, name).items()} for item in items]
    first = {key: (value.dtype, tuple(value.shape)) for key, value in rows[0].items()}
    for place, row in enumerate(rows):
        found = {key: (value.dtype, tuple(value.shape)) for key, value in row.items()}
        if found != first:
            raise OddItem(place, f"{_said(found)}, and one before it {_said(first)}; all must be alike")
    return {key: torch.stack([row[key] for row in rows]) for key in first}


def _said(found: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> str:
    return "has " + ", ".join(
        f"{key} {str(dtype).removeprefix('torch.')} {shape}" for key, (dtype, shape) in found.items()
    )


def as_named_batch(batch: Any, name: str) -> dict[str, Tensor]:
    """What an iterable or a collate function gives, by name."""
    found = {key: as_value(value, key, name) for key, value in named_values(batch, name).items()}
    lengths = {key: value.shape[0] if value.dim() else None for key, value in found.items()}
    if None in lengths.values() or len(set(lengths.values())) > 1:
        raise InputError(
            f"{name}: an iterable must give batches, tensors of one leading dimension; the dimensions are {lengths}"
        )
    return found


def columns_of(batch: Mapping[str, Tensor]) -> dict[str, Column]:
    """Types and shapes of what a batch has, by name."""
    return {key: Column(value.dtype, tuple(value.shape[1:])) for key, value in batch.items()}


def check_columns(batch: Mapping[str, Tensor], columns: Mapping[str, Column], count: int, label: str) -> None:
    """Check that a batch is like the first one."""
    found = columns_of(batch)
    if found != columns or any(len(value) != count for value in batch.values()):
        raise ReadError(f"{label} {_said(found)}, and the first {_said(columns)}; all must be alike")
