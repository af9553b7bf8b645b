"""Gaussian and Laplace likelihoods, for real data, with a scale that is fixed, learned, or one per element."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from pyro_vae.errors import InputError, unknown
from pyro_vae.likelihoods.base import Likelihood

Scale = float | Literal["learned", "per_pixel"]


class LocationScale(Likelihood):
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
    family: ClassVar[type]

    def __init__(self, scale: Scale = 1.0, min_scale: float = 1e-3) -> None:
        super().__init__()
        if not 0 < min_scale < 1:
            raise InputError(f"min_scale: must be between 0 and 1, got {min_scale}")
        self.scale = scale
        self.min_scale = min_scale
        self.initial_raw = math.log(math.expm1(1 - min_scale))  # softplus(initial_raw) + min_scale = 1
        self.num_parameters = 2 if scale == "per_pixel" else 1
        if isinstance(scale, str):
            if scale not in ("learned", "per_pixel"):
                raise unknown("scale", scale, ("learned", "per_pixel"))
            if scale == "learned":
                self.raw_scale = nn.Parameter(torch.tensor(self.initial_raw))
        elif not (scale > 0 and math.isfinite(scale)):
            raise InputError(f"scale: must be a positive number, 'learned' or 'per_pixel', got {scale}")

    def forward(self, features: Tensor, event_dim: int = 3) -> dist.TorchDistribution:
        """The distribution around locations ``(..., C, *rest)``."""
        loc, *raw = self.split(features, event_dim)
        if self.scale == "per_pixel":
            scale = self.min_scale + softplus(raw[0])
        elif self.scale == "learned":
            scale = self.min_scale + softplus(self.raw_scale)
        else:
            scale = loc.new_full((), self.scale)
        return self.family(loc, scale).to_event(event_dim)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """The mean itself, and where the decoder gives the scale, the feature that makes it 1."""
        if self.scale == "per_pixel":
            return torch.cat([mean, torch.full_like(mean, self.initial_raw)])
        return mean.clone()


class Gaussian(LocationScale):
    """log p(x) = -(x - mu)^2 / (2 s^2) - log s - log(2 pi)/2 nats per element: a density, which may exceed 1.

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
    """log p(x) = -|x - mu| / s - log(2 s) nats per element: a density, which may exceed 1.

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
