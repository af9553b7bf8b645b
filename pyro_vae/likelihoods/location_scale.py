"""Gaussian and Laplace likelihoods, for real data, with a scale that is fixed, learned, or one per element."""

from __future__ import annotations

from typing import ClassVar

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.likelihoods.spread import Spread, WithSpread


class LocationScale(WithSpread):
    """Features are locations; the scale is in the data's units.

    Learned scales are ``min_scale + softplus(raw)`` and start at 1. The lower bound keeps the density, hence
    the log-likelihood, finite where the decoder hits data exactly; the default 1e-3 is about the standard
    deviation of rounding to 256 grey levels, (1/255)/sqrt(12) = 1.13e-3, below which a density of such data
    means nothing.

    Args:
        scale: a positive number (fixed); ``"learned"`` (one scalar parameter); or ``"per_pixel"`` (the
            decoder gives ``raw`` as a second feature per element, after all the locations).
        min_scale: lower bound of a learned scale.

    Raises:
        InputError: if the scale is neither a positive number nor a known name, or ``min_scale`` is not
            between 0 and 1.
    """

    support = constraints.real
    spread_name = "scale"
    family: ClassVar[type]

    def __init__(self, scale: Spread = 1.0, min_scale: float = 1e-3) -> None:
        super().__init__(scale, min_scale)

    def forward(self, features: Tensor, event_dim: int = 3) -> dist.TorchDistribution:
        """The distribution around locations ``(..., C, *rest)``."""
        loc, *raw = self.split(features, event_dim)
        return self.family(loc, self.spread(loc, raw)).to_event(event_dim)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """The mean itself, and where the decoder gives the scale, the feature that makes it 1."""
        return self.with_spread(mean.clone())


class Gaussian(LocationScale):
    """``log p(x) = -(x - mu)^2 / (2 s^2) - log s - log(2 pi)/2`` nats per element: a density, which may exceed 1.

    ``Gaussian(scale, min_scale)``: the scale s is the standard deviation, in the data's units; fixed, one
    learned scalar, or per pixel. See :class:`LocationScale` for the arguments and the lower bound.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import Gaussian
        >>> p = Gaussian("per_pixel")(torch.zeros(5, 2 * 3, 8, 8))
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([3, 8, 8]))
    """

    family = dist.Normal


class Laplace(LocationScale):
    """``log p(x) = -|x - mu| / s - log(2 s)`` nats per element: a density, which may exceed 1.

    ``Laplace(scale, min_scale)``: the scale s is the mean absolute deviation, in the data's units; fixed, one
    learned scalar, or per pixel. See :class:`LocationScale` for the arguments and the lower bound.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import Laplace
        >>> p = Laplace("learned")(torch.zeros(5, 3, 8, 8))
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([3, 8, 8]))
    """

    family = dist.Laplace
