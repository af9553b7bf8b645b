"""A likelihood of counts with more zeros than it has by itself."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.errors import InputError
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.negative_binomial import NegativeBinomial

START = -2.0  # logit of the share of added zeros, about 12 %


class _ZeroInflated(dist.ZeroInflatedDistribution):
    """Pyro's, which cannot be expanded once its gate was looked at, as by a draw."""

    @property
    def gate(self) -> Tensor:
        """g."""
        return self.gate_logits.sigmoid()


class ZeroInflated(Likelihood):
    """With probability g a zero, else a count of the given likelihood: p(x) = g [x = 0] + (1 - g) p_count(x).

    The decoder gives the likelihood's own features and then the logit of g, per element.

    Args:
        counts: a likelihood of counts, elementwise; a learned :class:`NegativeBinomial` if not given.

    Raises:
        InputError: if it is no likelihood of counts.

    Source: Lambert 1992, Technometrics 34; of decoders Lopez et al. 2018, Nature Methods 15 (scVI).

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import NegativeBinomial, ZeroInflated
        >>> likelihood = ZeroInflated(NegativeBinomial(0.5))
        >>> p = likelihood(torch.zeros(5, likelihood.num_parameters * 4), event_dim=1)
        >>> p.event_shape, p.mean[0]  # half of them zeros, the others of mean 1
        (torch.Size([4]), tensor([0.5000, 0.5000, 0.5000, 0.5000]))
    """

    support = constraints.nonnegative_integer

    def __init__(self, counts: Likelihood | None = None) -> None:
        super().__init__()
        self.counts = counts if counts is not None else NegativeBinomial()
        if self.counts.support is not constraints.nonnegative_integer:
            raise InputError(
                f"counts: zeros are added to a likelihood of counts (NegativeBinomial), not to {type(counts).__name__}"
            )
        self.num_parameters = self.counts.num_parameters + 1

    def forward(self, features: Tensor, event_dim: int = 3, **given: Any) -> dist.TorchDistribution:
        """The distribution of the features ``(..., (P + 1) * C, *rest)``.

        Args:
            features: the likelihood's own, and then the logits of g.
            event_dim: number of dimensions of a datum.
            given: what the likelihood of counts takes beside them, such as ``library``.
        """
        logits = self.split(features, event_dim)[-1]  # (..., C, *rest)
        own = features.narrow(-event_dim, 0, features.shape[-event_dim] - logits.shape[-event_dim])
        counts = self.counts(own, event_dim, **given).base_dist
        return _ZeroInflated(counts, gate_logits=logits).to_event(event_dim)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """12 % of added zeros, and counts of a mean that makes up for them."""
        logits = torch.full_like(mean, START)
        return torch.cat([self.counts.initial_bias(mean / (-logits).sigmoid()), logits])
