"""The uniform prior over codes, which models of codes start with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pyro_vae.distributions import UniformCodes
from pyro_vae.priors.base import Prior
from pyro_vae.programs.context import Context


class UniformPrior(Prior):
    """p(codes) = K^{-N}: every grid of N codes is as likely as any other.

    It is what a model of codes starts with, and makes the KL of a deterministic guide N log K nats.

    Args:
        num_codes: K.
        shape: of the grid.
        coarser, num_actions: the grids of other codes and the number of actions, which it has no use for and which a
            learned prior in its place is given.

    Source: van den Oord et al. 2017, arXiv:1711.00937.

    Example:
        >>> from pyro_vae.priors import UniformPrior
        >>> codes = UniformPrior(num_codes=6, shape=(4, 4))()
        >>> codes.event_shape, codes.sample((2,)).shape
        (torch.Size([4, 4]), torch.Size([2, 4, 4]))
    """

    origin: Tensor

    def __init__(
        self,
        num_codes: int,
        shape: Sequence[int],
        *,
        coarser: Mapping[str, tuple[int, Sequence[int]]] | None = None,
        num_actions: int | None = None,
    ) -> None:
        super().__init__(num_codes, shape, coarser=coarser, num_actions=num_actions)
        self.register_buffer("origin", torch.zeros(()), persistent=False)  # where samples are made

    @property
    def context(self) -> dict[str, Context]:
        """Nothing."""
        return {}

    def forward(self, **_: Tensor | None) -> UniformCodes:
        """The uniform distribution; the context does not matter."""
        return UniformCodes(self.num_codes, self.shape, device=self.origin.device, dtype=self.origin.dtype)
