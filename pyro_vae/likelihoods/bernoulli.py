"""The Bernoulli likelihood, for binary data."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.likelihoods.base import Likelihood

TAIL = -60.0  # below it log sigmoid(t) is t to the last digit, in float64 too


def log_sigmoid(t: Tensor) -> Tensor:
    """log(1 / (1 + e^-t)), elementwise, to the rounding of 1 + e^-t.

    torch's takes a log1p, which is slow on many processors.
    """
    inside = t > TAIL
    return torch.where(inside, t, TAIL).sigmoid().log() + torch.where(inside, 0.0, t - TAIL)


class _Bernoulli(dist.Bernoulli):
    """Pyro's, with one pass less over the pixels, and a mode at probability 1/2 (torch's is NaN there)."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return log_sigmoid((2 * value - 1) * self.logits)  # x is 0 or 1: log p(1) = log s(l), log p(0) = log s(-l)

    @property
    def mode(self) -> Tensor:
        return (self.logits >= 0).to(self.logits.dtype)


class Bernoulli(Likelihood):
    """x in {0, 1}:  log p(x) = x log p + (1 - x) log(1 - p) nats,  with the features as logits of p.

    Grey data are no data of this likelihood: binarize them.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import Bernoulli
        >>> p = Bernoulli()(torch.zeros(5, 1, 8, 8))
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([1, 8, 8]))
    """

    support = constraints.boolean

    def forward(self, features: Tensor, event_dim: int = 3) -> dist.TorchDistribution:
        """Bernoulli of the logits ``(..., C, *rest)``."""
        logits = self.split(features, event_dim).squeeze(0)  # no unpacking: its gradient is a copy
        return _Bernoulli(logits=logits).to_event(event_dim)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """The logit of the mean clipped to [0.001, 0.999], ``(C, *rest)``."""
        return mean.clamp(0.001, 0.999).logit()
