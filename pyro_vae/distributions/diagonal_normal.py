"""A Gaussian with independent dimensions, from a network's output."""

from __future__ import annotations

import math

import pyro.distributions as dist
from torch import Tensor
from torch.nn.functional import softplus


def diagonal_normal(features: Tensor, min_scale: float = 1e-4) -> dist.TorchDistribution:
    """N(mu, diag sigma^2) of features (mu, s), with sigma = softplus(s + shift) + min_scale, which is 1 at s = 0.

    Args:
        features: ``(..., 2 * dim)``, first mu, then s.
        min_scale: lower bound of sigma.

    Returns:
        a distribution with event shape (dim,).
    """
    loc, raw = features.chunk(2, dim=-1)  # each (..., dim)
    shift = math.log(math.expm1(1.0 - min_scale))  # softplus(shift) = 1 - min_scale
    return dist.Normal(loc, softplus(raw + shift) + min_scale).to_event(1)
