"""Distributions over texts: words, and pads behind their end."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions.autoregressive import Autoregressive


class PaddedText(constraints.Constraint):
    """Words 1 … num_words - 1, then pads, 0, to the end.

    Args:
        num_words: with the pad.
    """

    is_discrete = True
    event_dim = 1

    def __init__(self, num_words: int) -> None:
        self.num_words = num_words
        super().__init__()

    def __repr__(self) -> str:
        return f"PaddedText(words 1 … {self.num_words - 1}, and 0 behind the end)"

    def check(self, value: Tensor) -> Tensor:
        """Whether each text ``(..., T)`` is one, ``(...,)``."""
        known = ((value >= 0) & (value < self.num_words)).all(-1)
        return known & ~((value[..., :-1] == 0) & (value[..., 1:] != 0)).any(-1)


class Texts(Autoregressive):
    """An autoregressive distribution over texts ``(T,)``; its network gives pads behind a pad with probability 1."""

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Words, then pads."""
        return PaddedText(self.num_codes)
