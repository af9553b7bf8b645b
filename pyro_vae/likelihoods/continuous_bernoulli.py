"""The continuous Bernoulli likelihood, for numbers from 0 to 1."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae import distributions
from pyro_vae.likelihoods.base import EDGE, Likelihood, invert_monotone


class ContinuousBernoulli(Likelihood):
    r"""x in [0, 1]:  log p(x) = l x + log(l / (e^l - 1)) nats per element, with the features as logits l; a density.

    What a Bernoulli's cross entropy of grey data lacks to be a density is the second term. The mean is not sigmoid(l).
    See :class:`pyro_vae.distributions.ContinuousBernoulli`.

    Source: Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import ContinuousBernoulli
        >>> p = ContinuousBernoulli()(torch.zeros(5, 1, 8, 8))
        >>> p.event_shape, p.mean[0, 0, 0, 0]
        (torch.Size([1, 8, 8]), tensor(0.5000))
    """

    support = constraints.unit_interval

    def forward(self, features: Tensor, event_dim: int = 3) -> dist.TorchDistribution:
        """Continuous Bernoulli of the logits ``(..., C, *rest)``."""
        logits = self.split(features, event_dim).squeeze(0)
        return distributions.ContinuousBernoulli(logits).to_event(event_dim)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """The logits whose means are these, clipped to [0.001, 0.999]; ``(C, *rest)``."""
        half = torch.logspace(-3, 3.1, 4000, dtype=torch.float64)
        logits = torch.cat([-half.flip(0), half])
        reached = distributions.ContinuousBernoulli(logits).mean
        wanted = mean.detach().to("cpu", torch.float64).clamp(EDGE, 1 - EDGE)
        return invert_monotone(logits, reached, wanted).to(mean)
