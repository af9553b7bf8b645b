"""The negative binomial likelihood, for counts that vary more than Poisson's."""

from __future__ import annotations

import math
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from pyro_vae.errors import InputError, unknown
from pyro_vae.likelihoods.base import Likelihood

LEAST_MEAN = 1e-3  # of a start: elements that are nearly always 0


class NegativeBinomial(Likelihood):
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

    def __init__(
        self, overdispersion: float | Literal["learned", "per_pixel"] = "learned", min_overdispersion: float = 1e-3
    ) -> None:
        super().__init__()
        if not 0 < min_overdispersion < 1:
            raise InputError(f"min_overdispersion: must be between 0 and 1, got {min_overdispersion}")
        self.overdispersion = overdispersion
        self.min_overdispersion = min_overdispersion
        self.initial_raw = math.log(math.expm1(1 - min_overdispersion))  # an overdispersion of 1
        self.num_parameters = 2 if overdispersion == "per_pixel" else 1
        if isinstance(overdispersion, str):
            if overdispersion not in ("learned", "per_pixel"):
                raise unknown("overdispersion", overdispersion, ("learned", "per_pixel"))
            if overdispersion == "learned":
                self.raw_overdispersion = nn.Parameter(torch.tensor(self.initial_raw))
        elif not (overdispersion > 0 and math.isfinite(overdispersion)):
            raise InputError(
                f"overdispersion: must be a positive number, 'learned' or 'per_pixel', got {overdispersion}"
            )

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
        if self.overdispersion == "per_pixel":
            a = self.min_overdispersion + softplus(raw[0])
        elif self.overdispersion == "learned":
            a = self.min_overdispersion + softplus(self.raw_overdispersion)
        else:
            a = log_mean.new_full((), self.overdispersion)
        return dist.NegativeBinomial(1 / a, logits=log_mean + a.log()).to_event(event_dim)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """The log of the mean, at least of 0.001, and where the decoder gives the overdispersion, the feature of 1."""
        log_mean = mean.clamp(min=LEAST_MEAN).log()
        if self.overdispersion == "per_pixel":
            return torch.cat([log_mean, torch.full_like(mean, self.initial_raw)])
        return log_mean
