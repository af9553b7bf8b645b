"""An autoregressive Gaussian as prior over real latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import AutoRegressiveNN
from torch import Size, Tensor, nn
from torch.distributions import constraints

from pyro_vae.errors import InputError, below_one
from pyro_vae.networks import diagonal_normal
from pyro_vae.priors.latent import LatentPrior


class AutoregressiveGaussianPrior(LatentPrior):
    r"""p(z) = prod_i N(z_i; mu_i(z_{<i}), sigma_i(z_{<i})^2), with means and scales of one masked network.

    A density takes one pass of the network, a draw one pass a number. It starts next to N(0, I).

    Args:
        shape: see :class:`LatentPrior`; the numbers of an event are taken in the order of rows.
        hidden_dims: widths of the network, one or more, each at least as many as an event has numbers.
        min_scale: lower bound of sigma.

    Raises:
        InputError: for no layer, or one that is too narrow, a min_scale that is not in [0, 1), or no shape.

    Source: Germain et al. 2015, arXiv:1502.03509 (masked networks); Papamakarios et al. 2017, arXiv:1705.07057.

    Example:
        >>> import pyro_vae
        >>> prior = pyro_vae.priors.AutoregressiveGaussianPrior((2,), hidden_dims=(16,))
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, prior=prior)
        >>> pyro_vae.sample(model, 5)["z"].shape
        torch.Size([5, 2])
    """

    origin: Tensor

    def __init__(
        self, shape: Sequence[int] | None = None, hidden_dims: Sequence[int] = (128, 128), min_scale: float = 1e-3
    ) -> None:
        super().__init__(shape)
        self.min_scale = below_one("min_scale", min_scale)
        if not hidden_dims or min(hidden_dims) < self.size:
            raise InputError(
                f"AutoregressiveGaussianPrior: hidden_dims must be one or more widths of at least {self.size}, the "
                f"numbers of an event, got {list(hidden_dims)}"
            )
        self.register_buffer("origin", torch.zeros(self.size), persistent=False)
        if self.size == 1:  # nothing before it
            self.network, self.first = None, nn.Parameter(torch.zeros(2))
            return
        self.network = AutoRegressiveNN(
            self.size, list(hidden_dims), [1, 1], torch.arange(self.size), nonlinearity=nn.Tanh()
        )
        nn.init.normal_(self.network.layers[-1].weight, std=1e-3)
        nn.init.zeros_(self.network.layers[-1].bias)

    def conditionals(self, z: Tensor) -> dist.Normal:
        """N(mu_i(z_<i), sigma_i(z_<i)^2) for all i at once, of batch shape ``(..., D)``.

        Args:
            z: ``(..., D)``, of which the i-th distribution sees the numbers before the i-th.
        """
        if self.network is None:
            return diagonal_normal(self.first.expand(*z.shape[:-1], 2), self.min_scale)
        return diagonal_normal(torch.cat(self.network(z), -1), self.min_scale)

    def forward(self, **context: Tensor) -> TorchDistribution:
        """p(z); the context does not matter."""
        return _OneByOne(self.conditionals, self.shape, self.origin)


class _OneByOne(TorchDistribution):
    """The distribution whose numbers have these conditionals."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, conditionals: Callable[[Tensor], dist.Normal], shape: Sequence[int], origin: Tensor) -> None:
        self.conditionals, self.origin = conditionals, origin
        super().__init__(Size(), Size(shape), validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.real, self.event_dim)

    def log_prob(self, value: Tensor) -> Tensor:
        z = value.flatten(value.dim() - self.event_dim)  # (..., D)
        return self.conditionals(z).log_prob(z).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        z = self.origin.repeat(*sample_shape, 1)  # (*sample, D)
        for i in range(z.shape[-1]):
            normal = self.conditionals(z)
            z[..., i] = torch.normal(normal.loc[..., i], normal.scale[..., i])
        return z.reshape(*sample_shape, *self.event_shape)
