"""A mixture of Gaussians with full covariances, of which each datum may have its own weights."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints


class GaussianMixture(TorchDistribution):
    r"""p(z) = sum_k w_k N(z; mu_k, L_k L_k^T), an event being a vector of D numbers.

    Numbers are kept for each value and component, not for each of their dimensions as well. L^-1 z and L^-1 mu may be
    far larger than their difference, and so the density is computed in float64. A weight may be 0.

    Args:
        log_weights: log w, ``(*batch, K)``, normalized; -inf leaves a component out.
        loc: mu, ``(K, D)``, the same for the whole batch.
        scale_tril: L, lower triangular with a positive diagonal, ``(K, D, D)``.

    Example:
        >>> import torch
        >>> from pyro_vae.distributions import GaussianMixture
        >>> p = GaussianMixture(torch.tensor([0.25, 0.75]).log(), torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3))
        >>> p.log_prob(torch.zeros(3)), p.sample((5,)).shape
        (tensor(-2.7568), torch.Size([5, 3]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, 1)  # pyright: ignore[reportAssignmentType]
    has_rsample = False

    def __init__(self, log_weights: Tensor, loc: Tensor, scale_tril: Tensor) -> None:
        self.log_weights, self.loc, self.scale_tril = log_weights, loc, scale_tril
        super().__init__(log_weights.shape[:-1], loc.shape[-1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z) of values ``(..., *batch, D)``, nats."""
        z, loc, lower = value.double(), self.loc.double(), self.scale_tril.double()
        unit = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device)
        inverse = torch.linalg.solve_triangular(lower, unit, upper=False)  # (K, D, D)
        centre = (inverse @ loc.unsqueeze(-1)).squeeze(-1)  # L^-1 mu, (K, D)
        log_scale = lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # (K,)
        parts = self.log_weights.double() - log_scale - 0.5 * loc.shape[-1] * math.log(2 * math.pi)
        for i in range(loc.shape[-1]):
            parts = parts - 0.5 * (z @ inverse[:, i].mT - centre[:, i]).square()  # (..., K)
        return parts.logsumexp(-1).to(value.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws ``(*sample_shape, *batch, D)``."""
        with torch.no_grad():
            choice = torch.distributions.Categorical(logits=self.log_weights, validate_args=False)
            which = choice.sample(Size(sample_shape))
            noise = torch.randn(*which.shape, self.loc.shape[-1], dtype=self.loc.dtype, device=self.loc.device)
            return self.loc[which] + (self.scale_tril[which] @ noise.unsqueeze(-1)).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        """E[z], ``(*batch, D)``."""
        return self.log_weights.exp() @ self.loc

    @property
    def variance(self) -> Tensor:
        """Var[z] of each number, ``(*batch, D)``."""
        return self.covariance_matrix.diagonal(dim1=-2, dim2=-1)

    @property
    def covariance_matrix(self) -> Tensor:
        """Cov[z], ``(*batch, D, D)``."""
        away = self.loc - self.mean.unsqueeze(-2)  # (*batch, K, D)
        parts = self.scale_tril @ self.scale_tril.mT + away.unsqueeze(-1) * away.unsqueeze(-2)
        return (self.log_weights.exp()[..., None, None] * parts).sum(-3)
