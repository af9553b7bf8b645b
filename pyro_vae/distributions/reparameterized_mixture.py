"""A mixture of diagonal Gaussians with reparameterized samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor


class ReparameterizedMixture(dist.MixtureSameFamily):
    r"""p(z) = sum_j w_j N(z; mu_j, diag sigma_j^2), with gradients through what is drawn.

    A drawn z is a differentiable function of the parameters, implicitly: each coordinate's distribution function, given
    the coordinates before it, stays what it was,

    .. math:: \frac{dz_i}{d\phi} = - \frac{dF(z_i \mid z_{<i})}{d\phi} \Big/ p(z_i \mid z_{<i})

    Arguments are those of ``pyro.distributions.MixtureSameFamily``: a ``Categorical`` ``(..., J)`` and components
    ``Normal(...).to_event(1)`` of batch shape ``(..., J)``.

    Source: Figurnov et al. 2018, arXiv:1805.08498; Graves 2016, arXiv:1607.05690.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> from pyro_vae.distributions import ReparameterizedMixture
        >>> loc = torch.randn(5, 3, 2, requires_grad=True)  # 5 data, 3 components, 2 dimensions
        >>> q = ReparameterizedMixture(dist.Categorical(torch.ones(5, 3)), dist.Normal(loc, 1.0).to_event(1))
        >>> z = q.rsample()
        >>> z.shape, z.requires_grad
        (torch.Size([5, 2]), True)
    """

    has_rsample = True

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws ``(*sample_shape, *batch, dim)``."""
        with torch.no_grad():
            drawn = self.sample(torch.Size(sample_shape))
        normal = self.component_distribution.base_dist
        log_weight = self.mixture_distribution.logits.expand(*drawn.shape[:-1], normal.loc.shape[-2])  # (..., J)
        found = []
        for i in range(drawn.shape[-1]):
            loc, scale, value = normal.loc[..., i], normal.scale[..., i], drawn[..., i, None]  # (..., J), (..., 1)
            weight = log_weight.softmax(-1)
            standard = (value - loc) / scale
            below = (weight * (0.5 * (1 + torch.erf(standard * math.sqrt(0.5))))).sum(-1)
            density = (weight * (-0.5 * standard.square()).exp() / (scale * math.sqrt(2 * math.pi))).sum(-1).detach()
            value = drawn[..., i] - (below - below.detach()) / density
            found.append(value)
            standard = (value[..., None] - loc) / scale
            log_weight = log_weight - 0.5 * standard.square() - scale.log()
        return torch.stack(found, -1)
