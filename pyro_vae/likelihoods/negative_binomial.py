"""The negative binomial likelihood, for counts that vary more than Poisson's."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.likelihoods.spread import Spread, WithSpread

LEAST_MEAN = 1e-3  # of a start: elements that are nearly always 0


class NegativeBinomial(WithSpread):
    r"""Counts of mean mu and variance mu + a mu^2, a the overdispersion: a Poisson whose rate is gamma distributed.

    .. math:: \log p(x) = \log\frac{\Gamma(x + 1/a)}{x!\,\Gamma(1/a)} - \frac{1}{a} \log(1 + a \mu)
        + x \log\frac{a \mu}{1 + a \mu} \quad \text{nats per element}

    Features are log mu; or, where a library size l (the sequencing depth of a cell, the length of an observation) is
    given, mu = l softmax(features) over the elements of a datum. A learned overdispersion is ``min_overdispersion +
    softplus(raw)`` and starts at 1; below the lower bound the counts are Poisson's as good as exactly.

    Args:
        overdispersion: a: a positive number (fixed); ``"learned"`` (one scalar parameter); or ``"per_pixel"`` (the
            decoder gives ``raw`` as a second feature per element, after all the means).
        min_overdispersion: lower bound of a learned one.

    Raises:
        InputError: if the overdispersion is neither a positive number nor a known name, or the bound is not between 0
            and 1.

    Source: Lopez et al. 2018, Nature Methods 15 (scVI), for the library size.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import NegativeBinomial
        >>> p = NegativeBinomial(0.5)(torch.zeros(5, 4), event_dim=1, library=torch.full((5,), 100.0))
        >>> p.event_shape, p.mean[0].round(), p.variance[0].round()  # 25 + 0.5 * 25^2 = 337.5
        (torch.Size([4]), tensor([25., 25., 25., 25.]), tensor([338., 338., 338., 338.]))
    """

    support = constraints.nonnegative_integer
    spread_name = "overdispersion"

    def __init__(self, overdispersion: Spread = "learned", min_overdispersion: float = 1e-3) -> None:
        super().__init__(overdispersion, min_overdispersion)

    def forward(self, features: Tensor, event_dim: int = 3, *, library: Tensor | None = None) -> dist.TorchDistribution:
        """Negative binomial of the log means ``(..., C, *rest)``.

        Args:
            features: ``(..., P * C, *rest)``.
            event_dim: number of dimensions of a datum.
            library: l, positive, ``(...)``, one a datum.
        """
        log_mean, *raw = self.split(features, event_dim)
        if library is not None:
            log_mean = log_mean.flatten(-event_dim).log_softmax(-1).reshape(log_mean.shape)
            log_mean = log_mean + library.log().reshape(library.shape + (1,) * event_dim)
        a = self.spread(log_mean, raw)
        return dist.NegativeBinomial(1 / a, logits=log_mean + a.log()).to_event(event_dim)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """The log of the mean, at least of 0.001, and where the decoder gives the overdispersion, the feature of 1."""
        return self.with_spread(mean.clamp(min=LEAST_MEAN).log())
