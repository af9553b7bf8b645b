"""Likelihoods with a spread (a scale, an overdispersion) that is fixed, learned, or one per element."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.errors import InputError, unknown
from pyro_vae.likelihoods.base import Likelihood

Spread = float | Literal["learned", "per_pixel"]


class WithSpread(Likelihood):
    """A likelihood of one feature per element, and of a spread by a name of its own.

    A learned spread is ``least + softplus(raw)`` and starts at 1. The attributes are ``<name>``, ``min_<name>`` and, of
    a learned one, the parameter ``raw_<name>``.

    Args:
        spread: a positive number (fixed); ``"learned"`` (one scalar parameter); or ``"per_pixel"`` (the decoder gives
            ``raw`` as a second feature per element, after all the first ones).
        least: lower bound of a learned one.

    Raises:
        InputError: if the spread is neither a positive number nor a known name, or ``least`` is not between 0 and 1.
    """

    spread_name: ClassVar[str]

    def __init__(self, spread: Spread, least: float) -> None:
        super().__init__()
        name = self.spread_name
        if not 0 < least < 1:
            raise InputError(f"min_{name}: must be between 0 and 1, got {least}")
        setattr(self, name, spread)
        setattr(self, f"min_{name}", least)
        self.initial_raw = math.log(math.expm1(1 - least))  # softplus(initial_raw) + least = 1
        self.num_parameters = 2 if spread == "per_pixel" else 1
        if isinstance(spread, str):
            if spread not in ("learned", "per_pixel"):
                raise unknown(name, spread, ("learned", "per_pixel"))
            if spread == "learned":
                self.register_parameter(f"raw_{name}", nn.Parameter(torch.tensor(self.initial_raw)))
        elif not (spread > 0 and math.isfinite(spread)):
            raise InputError(f"{name}: must be a positive number, 'learned' or 'per_pixel', got {spread}")

    def spread(self, first: Tensor, raw: list[Tensor]) -> Tensor:
        """The spread, a number or of the shape of the first features.

        Args:
            first: the first features.
            raw: those of the spread, if the decoder gives them.
        """
        kind, least = self._of(""), self._of("min_")
        if kind == "per_pixel":
            return least + softplus(raw[0])
        return least + softplus(self._of("raw_")) if kind == "learned" else first.new_full((), kind)

    def with_spread(self, bias: Tensor) -> Tensor:
        """The first features' bias, and where the decoder gives the spread, the feature that makes it 1."""
        if self.num_parameters == 2:
            return torch.cat([bias, torch.full_like(bias, self.initial_raw)])
        return bias

    def _of(self, prefix: str) -> Any:
        return getattr(self, f"{prefix}{self.spread_name}")
