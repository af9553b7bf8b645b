"""The logit-Laplace likelihood, for grey data between 0 and 1."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import AffineTransform, constraints

from pyro_vae import distributions
from pyro_vae.distributions.logit_laplace import check_epsilon, into_unit
from pyro_vae.likelihoods.base import Likelihood

ROUNDING = 1e-6


class LogitLaplace(Likelihood):
    r"""phi(x) is logit-Laplace, with phi(x) = (1 - 2 epsilon) x + epsilon: a density of x, which may exceed 1.

    .. math:: \log p(x) = \log f(\varphi(x) \mid \mu, b) + \log(1 - 2 \epsilon) \quad \text{nats per element}

    The decoder gives 2 features per element, all the mu before all the ln b. Without the map, the levels 0 and 1 would
    be at infinity. With it, x may lie a bit outside [0, 1], from -epsilon / (1 - 2 epsilon) to 1 + epsilon /
    (1 - 2 epsilon): over that interval the density integrates to one, and samples come from all of it.

    ``mean`` and ``mode`` of its distributions are what is shown, phi^{-1}(sigma(mu)) cut to [0, 1]. Without the cut it
    is the median and, for b <= 1, the mode. For the bounds of ln b see
    :class:`pyro_vae.distributions.LogitLaplace`.

    Args:
        epsilon: how far the levels 0 and 1 are brought inside.

    Raises:
        InputError: unless 0 <= epsilon < 1/2.

    Source: Ramesh et al. 2021, arXiv:2102.12092, appendix A.3.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import LogitLaplace
        >>> p = LogitLaplace()(torch.zeros(5, 2 * 3, 8, 8))
        >>> p.event_shape, p.mean[0, 0, 0, 0]
        (torch.Size([3, 8, 8]), tensor(0.5000))
    """

    num_parameters = 2

    def __init__(self, epsilon: float = 0.1) -> None:
        super().__init__()
        self.epsilon = check_epsilon(epsilon)
        self.support = _interval(self._widen())

    def forward(self, features: Tensor, event_dim: int = 3) -> dist.TorchDistribution:
        """The distribution of x for features ``(..., 2 * C, *rest)``."""
        loc, log_scale = self.split(features, event_dim)  # (..., C, *rest) each
        inside = distributions.LogitLaplace(loc, log_scale, validate_args=False)  # a rounding outside is no error
        return _Widened(inside, self._widen()).to_event(event_dim)

    def _widen(self) -> AffineTransform:
        """phi^{-1}."""
        margin = 1 - 2 * self.epsilon
        return AffineTransform(-self.epsilon / margin, 1 / margin)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """mu at the logit of phi(mean), the mean clipped to [0.001, 0.999], and ln b = 0; ``(2 * C, *rest)``."""
        loc = into_unit(mean.clamp(0.001, 0.999), self.epsilon).logit()
        return torch.cat([loc, torch.zeros_like(loc)])


class _Widened(dist.TransformedDistribution):
    """x = phi^{-1}(u), an affine function of a u on (0, 1)."""

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """phi^{-1} of (0, 1), with room for rounding in float32."""
        return _interval(self.transforms[0])

    @property
    def mean(self) -> Tensor:
        """What is shown, in [0, 1]."""
        return self.transforms[0](self.base_dist.median).clamp(0, 1)

    @property
    def mode(self) -> Tensor:
        """What is shown, in [0, 1]."""
        return self.mean


def _interval(widen: AffineTransform) -> constraints.Constraint:
    return constraints.interval(widen.loc - ROUNDING, widen.loc + widen.scale + ROUNDING)
