"""What the integers of a sequence stand for: words, characters, notes."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.data.dataset import Data, Extra
from pyro_vae.errors import InputError
from pyro_vae.files import write_atomically

if TYPE_CHECKING:
    from typing import Self

END = 0  # nothing follows: the end of a sequence, and the padding behind it
MOST_TOKENS, LONGEST = 1 << 20, 1 << 16  # of a vocabulary; of a sequence, in tokens


class Tokens(Extra):
    """How things (texts, melodies) are written as sequences of integers, x ``(N, T)`` int64.

    Tokens are 1 … num_tokens - 1; 0 is the end of a sequence and the padding behind it. Sequences that all have one
    length may be without an end. A run keeps its own in a file (:mod:`pyro_vae.data.token_file`), which holds what
    :meth:`plain` gives.

    Attributes:
        kind: its name in files, ``"words"``.
        num_tokens: how many integers there are, 0 among them: what an embedding needs.
        length: T, integers of a sequence, with its end and its padding.
        ends: whether a sequence has an end, so that it may be shorter than others.
    """

    kind: str
    num_tokens: int
    length: int
    ends: bool = True

    @abstractmethod
    def encode(self, things: Sequence[str]) -> Tensor:
        """Things as tokens, int64 ``(N, T)``, padded with 0."""

    @abstractmethod
    def decode(self, tokens: Tensor) -> list[str]:
        """Tokens ``(N, T)`` as things, to be read by people; what stands behind the first 0 is not looked at."""

    @abstractmethod
    def plain(self) -> dict[str, Any]:
        """All that it knows, as texts, numbers, lists and mappings: what a file holds."""

    @classmethod
    @abstractmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`plain` gave, made anew of values that are not trusted.

        Raises:
            ValueError, KeyError, TypeError: if they are not such.
        """

    @property
    def digest(self) -> str:
        """SHA-256 of all that it knows, 64 hexadecimal digits: equal only where a token means the same."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()

    def check(self, data: Data) -> None:
        """x are such sequences: int64, of this length, of these tokens, and nothing stands behind an end."""
        for split in data.splits.values():
            column = split.columns["x"]
            if column.dtype != torch.int64 or split.shape != (self.length,):
                raise InputError(
                    f"{split.name}: x must be tokens, int64 of shape ({self.length},) each, got {column.dtype} "
                    f"{split.shape}"
                )
            if split.in_memory:
                self.check_tokens(split.column("x").flatten(0, -2), split.name)  # (N, T), or variants of each datum

    def check_tokens(self, x: Tensor, name: str = "x") -> None:
        """Check that sequences ``(N, T)`` are made of these tokens, and end once.

        Raises:
            InputError: names the first datum that is not.
        """
        lengths, places = lengths_of(x), torch.arange(x.shape[1], device=x.device)
        strange = (x < 0) | (x >= self.num_tokens)
        if self.ends:
            behind = (places >= lengths[:, None]) & (x != END)  # (N, T)
            endless = lengths == x.shape[1]
        else:
            behind, endless = x == END, lengths.new_zeros(len(x), dtype=torch.bool)
        for wrong, words in (
            (strange.any(1), f"holds numbers outside 0 … {self.num_tokens - 1}, which are no tokens"),
            (behind.any(1), "has tokens behind its end, which is 0" if self.ends else "has a 0, which is no token"),
            (endless, "has no end: the last number must be 0"),
        ):
            if wrong.any():
                raise InputError(f"{name}: datum {int(wrong.nonzero()[0])} {words}")

    def read(self, path: Path) -> list[str]:
        """What :meth:`encode` takes of a file, for things that have files of their own, as melodies have.

        Raises:
            InputError: naming the file, if it cannot be read as such things.
        """
        raise InputError(f"{path}: no files are known that hold tokens of kind {self.kind}")

    def write(self, path: Path, tokens: Tensor, names: Sequence[str]) -> list[Path]:
        """Write things into files that other programs open: here ``<path>.txt``, a line each.

        Args:
            path: without a suffix; things that have a file each go into a folder of this name.
            tokens: ``(N, T)``.
            names: of the things, for the files of those that have one each.

        Returns:
            what was written: files, or the folder.

        Raises:
            InputError: if it cannot be written.
        """
        file = path.with_name(f"{path.name}.txt")
        lines = "".join(f"{' '.join(thing.splitlines())}\n" for thing in self.decode(tokens))
        write_atomically(file, lambda temporary: temporary.write_text(lines, encoding="utf-8"))
        return [file]


def lengths_of(x: Tensor) -> Tensor:
    """The number of tokens before the end of each sequence, that is before its first 0.

    Args:
        x: tokens, int64 ``(..., T)``.

    Returns:
        int64 ``(...)``, 0 … T; T where there is no 0.

    Example:
        >>> import torch
        >>> from pyro_vae.data import lengths_of
        >>> lengths_of(torch.tensor([[3, 1, 0, 0], [0, 0, 0, 0], [2, 2, 2, 2]]))
        tensor([2, 0, 4])
    """
    return (x != END).long().cumprod(-1).sum(-1)
