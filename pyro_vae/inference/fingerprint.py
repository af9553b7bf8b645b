"""What tells one experiment from another, kept with its checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.inference.objective import Objective
from pyro_vae.inference.schedules import Schedule

MOST_TOLD = 3  # differences in a message


def described(value: Any) -> str:
    """A setting in words that are the same in another process: a number, an objective or schedule with its arguments.

    Args:
        value: plain values, mappings and lists of them, schedules, objectives.
    """
    if isinstance(value, Objective | Schedule):
        own = {name: each for name, each in vars(value).items() if not name.startswith("_")}
        return f"{type(value).__name__}({', '.join(f'{name}={described(each)}' for name, each in own.items())})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {described(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(described, value)) + "]"
    return repr(value) if isinstance(value, str | int | float | None) else type(value).__qualname__


def check_same(begun: Mapping[str, str], now: Mapping[str, str], source: str) -> None:
    """Check that an experiment that is gone on with is the one that was begun.

    Args:
        begun: from the checkpoint.
        now: what is to be done.
        source: what the checkpoint is called.

    Raises:
        InputError: names what differs, and how.
    """
    names = [name for name in now | begun if begun.get(name) != now.get(name)]
    if names:
        told = [f"{name} was {_short(begun.get(name))} and is {_short(now.get(name))}" for name in names[:MOST_TOLD]]
        more = [f"and {len(names) - MOST_TOLD} more"] if len(names) > MOST_TOLD else []
        raise InputError(
            f"{source} is of another experiment: {'; '.join(told + more)}. Go on with what it was begun with, or begin "
            "anew in another directory"
        )


def _short(value: str | None) -> str:
    if value is None:
        return "not there"
    value = str(value)  # a file may say anything
    return value if len(value) <= 80 else f"{value[:79]}…"


def state_digest(state: Any) -> str:
    """BLAKE2 of nested dicts and lists of tensors and plain values: whether a file still holds what was saved."""
    found = hashlib.blake2b(digest_size=16)
    waiting = [state]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            found.update(f"{value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(value, Mapping):
            found.update(f"mapping of {len(value)}".encode())
            waiting.extend(each for item in value.items() for each in item)
        elif isinstance(value, list | tuple):
            found.update(f"list of {len(value)}".encode())
            waiting.extend(value)
        else:
            found.update(repr(value).encode())
    return found.hexdigest()
