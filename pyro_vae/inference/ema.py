"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError


class WeightEMA:
    r"""Moving average of a module's parameters.

    .. math:: \bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta

    The average starts at the first weights and is not bias-corrected. Buffers are not averaged.

    Args:
        module: whose parameters are followed.
        decay: d, in (0, 1).

    Raises:
        InputError: if decay is not in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise InputError(f"ema_decay must lie between 0 and 1, got {decay}")
        self.decay = decay
        self.source = list(module.parameters())
        self.average = [p.detach().clone() for p in self.source]

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the current weights."""
        torch._foreach_lerp_(self.average, self.source, 1.0 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the module for the length of a block."""
        with torch.no_grad():
            kept = [p.detach().clone() for p in self.source]
            torch._foreach_copy_(self.source, self.average)
            try:
                yield
            finally:
                torch._foreach_copy_(self.source, kept)

    def state(self) -> list[Tensor]:
        """The averages, to be saved."""
        return self.average

    def restore(self, state: list[Tensor]) -> None:
        """Take over saved averages."""
        for ours, theirs in zip(self.average, state, strict=True):
            ours.copy_(theirs)
