"""A prior over codes as a generative model, of codes that are data."""

from __future__ import annotations

import pyro
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.context import Context
from pyro_vae.priors import Prior


class CodeModel(PyroModule):
    """x ~ p(codes | y, coarser codes): what trains a learned prior, by maximum likelihood.

    It has no latents (its guide is :class:`~pyro_vae.guides.EmptyGuide`), so that the ELBO is log p(codes) itself.

    Args:
        prior: over the codes, which are the data ``x`` ``(batch, *grid)``, int64.
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    @property
    def context(self) -> dict[str, Context]:
        """What the prior is given."""
        return self.prior.context

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1, **context: Tensor | None) -> Tensor:
        """Run the program on codes ``x``, or sample ``num_samples`` grids of them."""
        with pyro.plate("data", num_samples if x is None else x.shape[0], dim=-1):
            return pyro.sample("x", self.prior(**context), obs=x)
