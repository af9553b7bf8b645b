"""What the integers of a sequence stand for: words, characters, notes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from pyro_vae.data.dataset import Extra

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
