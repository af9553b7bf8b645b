"""What tells one experiment from another, in words that are the same in another process, and by digests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.objectives.base import Objective
from pyro_vae.objectives.divergence import Divergence
from pyro_vae.training.aggressive import Aggressive
from pyro_vae.training.schedules import Schedule

MOST_NAMED = 3  # differences in a message


def described(value: Any) -> str:
    """A setting in words that are the same in another process: a number, an objective or schedule with its arguments.

    Args:
        value: plain values, mappings and lists of them, schedules, objectives and their divergences, ``Aggressive``.
    """
    if isinstance(value, Objective | Schedule | Divergence | Aggressive):
        own = {name: each for name, each in vars(value).items() if not name.startswith("_")}
        return f"{type(value).__name__}({', '.join(f'{name}={described(each)}' for name, each in own.items())})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {described(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(described, value)) + "]"
    if isinstance(value, nn.Module):  # its layers, without the places in memory of what they hold
        return " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)).split())
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
        raise InputError(
            f"{source} is of another experiment: {differences(begun, now, names)}. Go on with what it was begun with, "
            "or begin anew in another directory"
        )


def differences(begun: Mapping[str, str], now: Mapping[str, str], names: Sequence[str]) -> str:
    """How two descriptions differ in these settings, in words; of many, the first ones."""
    entries = []
    for name in names[:MOST_NAMED]:
        was, is_ = _where_they_differ(begun.get(name), now.get(name))
        entries.append(f"{name} was {_short(was)} and is {_short(is_)}")
    more = [f"and {len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return "; ".join(entries + more)


def _where_they_differ(was: str | None, now: str | None) -> tuple[str | None, str | None]:
    """Two descriptions from where they differ on, with a few words before, if they are long."""
    if was is None or now is None or min(len(str(was)), len(str(now))) <= 80:
        return was, now
    was, now = str(was), str(now)  # a file may say anything
    start = next((i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), 0) - 40
    return (f"…{was[start:]}", f"…{now[start:]}") if start > 0 else (was, now)


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
