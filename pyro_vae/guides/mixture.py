"""The guide of mixtures of Gaussians, for any model with real latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.distributions import ReparameterizedMixture
from pyro_vae.errors import positive
from pyro_vae.guides.base import EncoderGuide


class MixtureGuide(EncoderGuide):
    r"""q(z_i | x) = sum_j w_ij(x) N(z_i; mu_ij(x), diag sigma_ij(x)^2), one mixture per latent site of the model.

    (mu, sigma) of a site are those of :class:`GaussianGuide`; its components are mu + sigma (a_j + d_j(x)) and
    sigma softplus(s_j(x)), so that they are apart from the start: the a_j are N(0, 1) draws, and trained.
    Samples are reparameterized (:class:`~pyro_vae.distributions.ReparameterizedMixture`).

    Args:
        model, hidden_dims, activation, min_scale: see :class:`GaussianGuide`.
        encoder: as there, to J * (2 d + 1) more features for every site of d numbers.
        num_components: J.

    Raises:
        InputError: as :class:`GaussianGuide`; for a number of components that is not a positive integer.

    Source: Graves 2016, arXiv:1607.05690.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.MixtureGuide(model, num_components=3, hidden_dims=(16,))
        >>> pyro_vae.encode(model, guide, torch.ones(5, 1, 8, 8))["z"].shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        num_components: int = 5,
        encoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        min_scale: float = 1e-4,
    ) -> None:
        count = positive("num_components", num_components)
        super().__init__(model, encoder, hidden_dims, activation, min_scale, lambda size: count * (2 * size + 1))
        self.num_components = num_components
        self.offsets = nn.ParameterList([torch.randn(num_components, size) for size in self.sizes.values()])

    def posterior(self, name: str, normal: dist.Normal, features: Tensor) -> Any:
        """The mixture of a site's numbers."""
        count, size = self.num_components, normal.loc.shape[-1]
        logits, rest = features.split([count, 2 * count * size], -1)
        shift, raw = rest.unflatten(-1, (2, count, size)).unbind(-3)  # (batch, J, size)
        scale = normal.scale[..., None, :]
        loc = normal.loc[..., None, :] + scale * (self.offsets[list(self.sizes).index(name)] + shift)
        component = dist.Normal(loc, scale * softplus(raw) + self.min_scale).to_event(1)
        return ReparameterizedMixture(dist.Categorical(logits=logits), component)
