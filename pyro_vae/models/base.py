"""What the package's generative models share: the data plate."""

from __future__ import annotations

from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.errors import InputError


class GenerativeModel(PyroModule):
    """A generative Pyro program p(x, z) with all per-datum sites in one plate.

    A subclass writes ``forward(self, x=None, *, num_samples=1)``: data sites are observed with ``obs=x`` and are
    sampled when ``x`` is None, which is generation.
    """

    def data_plate(self, data: Tensor | None, num_samples: int = 1) -> Any:
        """The plate of the data, at dim -1: as long as ``data``, or ``num_samples`` when there are none.

        Raises:
            InputError: if num_samples is not a positive integer.
        """
        if data is not None:
            return pyro.plate("data", data.shape[0], dim=-1)
        if num_samples < 1:
            raise InputError(f"num_samples must be a positive integer, got {num_samples}")
        return pyro.plate("data", num_samples, dim=-1)
