"""A mixture of many diagonal Gaussians, whose density takes little memory."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints


class DiagonalMixture(TorchDistribution):
    r"""p(z) = sum_k w_k N(z; mu_k, diag sigma_k^2).

    .. math:: \log N(z; \mu_k, \sigma_k) = \textstyle -\frac12 \big[\sum_i z_i^2 / \sigma_{ki}^2 - 2 \sum_i z_i
        \mu_{ki} / \sigma_{ki}^2 + \sum_i (\mu_{ki}^2 / \sigma_{ki}^2 + 2 \log \sigma_{ki} + \log 2 \pi)\big]

    by two matrix products, so that no numbers are kept for each value, component and dimension at once. Their terms
    may be far larger than what they add up to, and so they are computed in float64.

    Args:
        log_weights: log w, ``(*batch, K)``, normalized.
        loc, scale: mu and sigma, ``(*batch, K, *event)``.
        event_dim: how many dimensions an event has.

    Example:
        >>> import torch
        >>> from pyro_vae.distributions import DiagonalMixture
        >>> p = DiagonalMixture(torch.tensor([0.25, 0.75]).log(), torch.zeros(2, 3), torch.ones(2, 3))
        >>> p.log_prob(torch.zeros(3)), p.sample((5,)).shape
        (tensor(-2.7568), torch.Size([5, 3]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, log_weights: Tensor, loc: Tensor, scale: Tensor, event_dim: int = 1) -> None:
        self.log_weights, self.loc, self.scale = log_weights, loc, scale
        cut = loc.dim() - event_dim
        super().__init__(loc.shape[: cut - 1], loc.shape[cut:], validate_args=False)

    @property
    def support(self) -> Any:
        """Real numbers."""
        return constraints.independent(constraints.real, self.event_dim)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z) of values ``(..., *event)``, nats."""
        z, loc, scale = (t.flatten(t.dim() - self.event_dim).double() for t in (value, self.loc, self.scale))
        precision = scale.square().reciprocal()  # (*batch, K, D)
        constant = -0.5 * (loc.square() * precision).sum(-1) - scale.log().sum(-1)  # (*batch, K)
        linear = torch.einsum("...d,...kd->...k", z, loc * precision)
        square = torch.einsum("...d,...kd->...k", z.square(), precision)  # (..., *batch, K)
        log_p = (self.log_weights.double() + constant + linear - 0.5 * square).logsumexp(-1)
        return (log_p - 0.5 * z.shape[-1] * math.log(2 * math.pi)).to(value.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws ``(*sample_shape, *batch, *event)``."""
        with torch.no_grad():
            which = torch.distributions.Categorical(logits=self.log_weights, validate_args=False).sample(
                Size(sample_shape)
            )
            loc, scale = self._of(which, self.loc), self._of(which, self.scale)
            return torch.normal(loc, scale)

    def _of(self, which: Tensor, parameters: Tensor) -> Tensor:
        """The parameters of the components ``which`` ``(*sample, *batch)``."""
        if not self.batch_shape:
            return parameters[which]
        parameters = parameters.expand(*which.shape, *parameters.shape[len(self.batch_shape) :])
        dim = which.dim()
        index = which.reshape(*which.shape, *(1,) * (1 + self.event_dim)).expand(*which.shape, 1, *self.event_shape)
        return parameters.gather(dim, index).squeeze(dim)

    @property
    def mean(self) -> Tensor:
        """E[z], ``(*batch, *event)``."""
        return self._average(self.loc)

    @property
    def variance(self) -> Tensor:
        """Var[z], ``(*batch, *event)``."""
        return self._average(self.scale.square() + (self.loc - self.mean.unsqueeze(-self.event_dim - 1)).square())

    def _average(self, values: Tensor) -> Tensor:
        weights = self.log_weights.exp()
        weights = weights.reshape(*weights.shape, *(1,) * self.event_dim)
        return (weights * values).sum(-self.event_dim - 1)
