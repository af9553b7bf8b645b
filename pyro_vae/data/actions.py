"""What integers stand for that say what is done at every step: the names of actions, and how they are said in words."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.data.dataset import Data, Extra
from pyro_vae.data.split import Split
from pyro_vae.errors import InputError, unknown

ACTIONS = "actions"  # the entry of a batch
MOST_STEPS = 10_000  # of one sequence in words


@dataclass(frozen=True)
class Actions(Extra):
    """The names of the integers ``actions`` (N, T) of data: actions[t] leads from the frame before to the frame x[t].

    Args:
        names: of the actions 0 … A-1, in order.

    Raises:
        InputError: for fewer than two names, one that cannot be said in words (letters, digits, ``_`` and ``-``,
            a letter first), and two that differ in upper and lower case alone.

    Example:
        >>> from pyro_vae.data import Actions
        >>> actions = Actions(("left", "right", "forward"))
        >>> actions.sequences("forward*2, right; l*3")
        [tensor([2, 2, 1]), tensor([0, 0, 0])]
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the names."""
        if len(self.names) < 2:
            raise InputError(f"actions need at least two names, got {list(self.names)}")
        for name in self.names:
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,99}", name):
                raise InputError(
                    f"an action's name has letters, digits, _ and -, a letter first, got {str(name)[:100]!r}"
                )
        if len({name.lower() for name in self.names}) < len(self.names):
            raise InputError(f"two actions have one name: {', '.join(self.names)}")

    def check(self, data: Data) -> None:
        """Every part has ``actions``, int64 (N, T), and each of them a name."""
        for split in data.splits.values():
            if ACTIONS not in split.columns:
                raise InputError(f"{split.name}: has no '{ACTIONS}', which its actions' names are of")
            column = split.columns[ACTIONS]
            if column.dtype != torch.int64 or len(column.shape) != 1:
                raise InputError(
                    f"{split.name}: '{ACTIONS}' must be int64 (N, T), an action a step, got {column.dtype} "
                    f"(N, {', '.join(map(str, column.shape))})"
                )
            self.check_range(split.column(ACTIONS), split.name)

    def check_range(self, actions: Tensor, name: str) -> None:
        """Check that every action has a name.

        Args:
            actions: int64 of any shape.
            name: what errors call them.

        Raises:
            InputError: if one has none.
        """
        if actions.numel() and not (actions.min() >= 0 and actions.max() < len(self.names)):
            raise InputError(
                f"{name}: '{ACTIONS}' must be from 0 to {len(self.names) - 1} ({', '.join(self.names)}), got "
                f"values from {int(actions.min())} to {int(actions.max())}"
            )

    def describe(self, train: Split) -> str:
        """Name the actions, and say how many there are a datum."""
        steps = train.columns[ACTIONS].shape[0]
        return f"{steps} action{'s' * (steps != 1)} a datum, of {len(self.names)}: {', '.join(self.names)}"

    def find(self, word: str) -> int:
        """The action that a word means: its name, or the beginning of one name alone, in upper or lower case.

        Raises:
            InputError: for a word that means none, or several.
        """
        said = word.strip().lower()
        names = [name.lower() for name in self.names]
        if said in names:
            return names.index(said)
        found = [name for name in names if said and name.startswith(said)]
        if len(found) > 1:
            raise InputError(f"action '{word.strip()}' may be {' or '.join(found)}: say more of its name")
        if not found:
            raise unknown("action", word.strip(), self.names)
        return names.index(found[0])

    def sequences(self, text: str) -> list[Tensor]:
        """Sequences of actions from words: ``forward*10``, ``forward*3,right*7``; with ``;`` between them, several.

        Returns:
            each int64 ``(T,)``.

        Raises:
            InputError: for an unknown action, and what is no number of times.
        """
        return [self._sequence(part) for part in text.split(";")]

    def _sequence(self, text: str) -> Tensor:
        actions: list[int] = []
        for step in text.split(","):
            word, times, count = step.partition("*")
            if times and not re.fullmatch(r"\s*[0-9]{1,6}\s*", count):
                raise InputError(f"actions: '{step.strip()}' must be an action's name, or NAME*10 for ten times")
            many = int(count) if times else 1
            if not 1 <= many <= MOST_STEPS - len(actions):
                raise InputError(f"actions: '{step.strip()}': a sequence has 1 to {MOST_STEPS:,} steps")
            actions += [self.find(word)] * many
        return torch.tensor(actions)

    def words(self, actions: Tensor) -> str:
        """What :meth:`sequences` makes a sequence ``(T,)`` of: ``forward*3,right*7``."""
        values, counts = actions.unique_consecutive(return_counts=True)
        pairs = zip(values.tolist(), counts.tolist(), strict=True)
        return ",".join(self.names[value] + (f"*{count}" if count > 1 else "") for value, count in pairs)


def actions_of(names: object) -> Actions:
    """Actions of names that a file says, which is not trusted.

    Raises:
        ValueError: if they are not such.
    """
    if not isinstance(names, list):
        raise ValueError(f"actions have a list of names, got {str(names)[:100]}")
    return Actions(tuple(names))
