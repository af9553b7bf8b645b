"""Networks whose output is a diagonal Gaussian."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.networks.batch_norm import FeatureNorm
from pyro_vae.networks.mlp import glorot_, hidden_layers

MIN_VARIANCE = 1e-5


def as_gaussian(parameters: Tensor) -> dist.Normal:
    """N(mu, softplus(s) + 1e-5), elementwise, of parameters (mu, s) side by side ``(..., 2 * dim)``."""
    loc, raw = parameters.chunk(2, -1)  # each (..., dim)
    return dist.Normal(loc, (softplus(raw) + MIN_VARIANCE).sqrt())


class GaussianHead(nn.Module):
    r"""N(mu(h), diag sigma^2(h)) with linear mu and sigma^2 = softplus(linear) + 1e-5.

    Args:
        in_dim: size of h.
        out_dim: dimensions of the Gaussian.
        batch_norm: normalize both linear maps.

    Source: Sønderby et al. 2016, arXiv:1602.02282.
    """

    def __init__(self, in_dim: int, out_dim: int, batch_norm: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, 2 * out_dim, bias=not batch_norm).apply(glorot_)
        self.norm = FeatureNorm(2 * out_dim) if batch_norm else nn.Identity()

    def forward(self, h: Tensor) -> dist.Normal:
        """The elementwise Gaussian ``(..., out_dim)`` at h ``(..., in_dim)``."""
        return as_gaussian(self.norm(self.linear(h)))


class GaussianMLP(nn.Module):
    """A conditional p(z | h) = N(mu(h), diag sigma^2(h)) by hidden layers and a :class:`GaussianHead`.

    Args:
        in_dim: size of h.
        hidden_dims: sizes of the hidden layers; empty for a linear Gaussian conditional.
        out_dim: dimensions of z.
        activation: name of the activation.
        batch_norm: normalize every layer, the head included.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        activation: str = "tanh",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [in_dim, *hidden_dims]
        self.hidden = hidden_layers(sizes, activation, batch_norm)
        self.head = GaussianHead(sizes[-1], out_dim, batch_norm)

    def forward(self, h: Tensor) -> dist.Normal:
        """The elementwise Gaussian ``(..., out_dim)`` at h ``(..., in_dim)``."""
        return self.head(self.hidden(h))
