"""The beta likelihood, for numbers strictly between 0 and 1."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from pyro_vae.likelihoods.base import EDGE, Likelihood

LEAST = 1e-2  # of the concentration
START = 4.0  # the concentration at the start


class _OpenUnit(constraints.Constraint):
    """0 < x < 1: at 0 and 1 a beta density is infinite or nothing."""

    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 1)

    def __repr__(self) -> str:
        return "OpenUnit(0 < x < 1)"


OPEN_UNIT = _OpenUnit()


class _Beta(dist.Beta):
    """Pyro's, without the ends, and with draws that stay away from them."""

    support = OPEN_UNIT

    def expand(self, batch_shape: Any, _instance: Any = None) -> dist.TorchDistribution:
        return super().expand(batch_shape, self._get_checked_instance(_Beta, _instance))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        drawn = super().rsample(torch.Size(sample_shape))
        limits = torch.finfo(drawn.dtype)
        return drawn.clamp(limits.tiny, 1 - limits.eps)


class Beta(Likelihood):
    r"""x in (0, 1), of mean m and concentration c: a density, which may exceed 1; nats per element.

    .. math:: \log p(x) = (m c - 1) \log x + ((1 - m) c - 1) \log(1 - x) - \log B(m c, (1 - m) c)

    The decoder gives 2 features per element, the logits of m and then ``raw``, with c = 0.01 + softplus(raw). Data at 0
    or 1, where the density is infinite or nothing, are refused: move them inside, or take
    :class:`~pyro_vae.likelihoods.ContinuousBernoulli`.

    Source: Ferrari & Cribari-Neto 2004, Journal of Applied Statistics 31, for the parameters.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import Beta
        >>> p = Beta()(torch.zeros(5, 2 * 3), event_dim=1)
        >>> p.event_shape, p.mean[0]
        (torch.Size([3]), tensor([0.5000, 0.5000, 0.5000]))
    """

    num_parameters = 2
    support = OPEN_UNIT

    def forward(self, features: Tensor, event_dim: int = 3) -> dist.TorchDistribution:
        """The distribution of the features ``(..., 2 * C, *rest)``."""
        logits, raw = self.split(features, event_dim)
        concentration = LEAST + softplus(raw)
        tiny = torch.finfo(logits.dtype).tiny
        a, b = (concentration * side.sigmoid().clamp(min=tiny) for side in (logits, -logits))
        return _Beta(a, b).to_event(event_dim)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """The logit of the mean clipped to [0.001, 0.999], and the feature of the concentration 4."""
        logits = mean.clamp(EDGE, 1 - EDGE).logit()
        return torch.cat([logits, torch.full_like(mean, math.log(math.expm1(START - LEAST)))])
