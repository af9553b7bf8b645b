"""The multinomial likelihood, for bags of words."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions import BagOfWords
from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods.base import Likelihood

LEAST_SHARE = 1e-6  # of a word at the start


class Multinomial(Likelihood):
    """x | n ~ Multinomial(n, softmax(features)): counts of words given their sum n, the datum's own; nats.

    log p(x | n) has the multinomial coefficient, and is a probability of the bag, not of the words in their order.
    See :class:`pyro_vae.distributions.BagOfWords`.

    Args:
        total_count: n of what is drawn, and of means.

    Raises:
        InputError: if it is no positive integer.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import Multinomial
        >>> p = Multinomial(total_count=50)(torch.zeros(5, 200), event_dim=1)
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([200]))
    """

    support = constraints.nonnegative_integer

    def __init__(self, total_count: int = 100) -> None:
        super().__init__()
        self.total_count = positive("total_count", total_count)

    def forward(self, features: Tensor, event_dim: int = 1) -> dist.TorchDistribution:
        """The distribution of counts of the logits ``(..., vocabulary)``.

        Raises:
            InputError: if data have more than one dimension.
        """
        if event_dim != 1:
            raise InputError(f"Multinomial is of vectors of counts, event_dim 1, got {event_dim}")
        return BagOfWords(self.split(features, 1).squeeze(0), self.total_count)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """Log of the words' shares, ``(vocabulary,)``."""
        return (mean / mean.sum()).clamp(min=LEAST_SHARE).log()
