"""What the integers of a sequence stand for: words, characters, notes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pyro_vae.data.dataset import Extra
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_atomically

MOST_BYTES = 2**24  # of a file of texts
END = 0  # nothing follows: the end of a sequence, and the padding behind it


class Tokens(Extra):
    """How things (texts, melodies) are written as sequences of integers, x ``(N, T)`` int64.

    Tokens are 1 … num_tokens - 1; 0 is the end of a sequence and the padding behind it. Sequences that all have one
    length may be without an end.

    Attributes:
        num_tokens: how many integers there are, 0 among them: what an embedding needs.
    """

    num_tokens: int

    @abstractmethod
    def encode(self, things: Sequence[str]) -> Tensor:
        """Things as tokens, int64 ``(N, T)``, padded with 0."""

    @abstractmethod
    def decode(self, tokens: Tensor) -> list[str]:
        """Tokens ``(N, T)`` as things, to be read by people; what stands behind the first 0 is not looked at."""

    def read(self, path: Path) -> list[str]:
        """What :meth:`encode` takes of a file: here the lines of a text file, without those that are empty.

        Raises:
            InputError: naming the file, if it is not there, of another kind, too large or without a line.
            CorruptFileError: if it is no UTF-8.
        """
        if path.suffix.lower() != ".txt":
            raise InputError(f"{path}: give a text file (.txt), a text a line")
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: larger than {MOST_BYTES // 2**20} MiB, too large to be read whole")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise CorruptFileError(f"{path}: no text in UTF-8 (byte {error.start})") from error
        texts = [line.strip() for line in lines if line.strip()]
        if not texts:
            raise InputError(f"{path}: has no line of text")
        return texts

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
