"""The diagonal Gaussian guide, for any model with real latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.errors import below_one
from pyro_vae.guides.base import data_and_latent_shapes
from pyro_vae.networks import diagonal_normal, make_encoder


class GaussianGuide(PyroModule):
    r"""q(z | x) = prod_i N(z_i; mu_i(x), diag sigma_i(x)^2), one factor per latent site of the model.

    (mu, s) = encoder(x) and sigma = softplus(s) + min_scale, with s shifted so that sigma = 1 where the encoder
    gives 0. The model is run once to read its latent sites and their shapes; it is not kept. A model may say by a
    module ``seen`` what the encoder is to be shown of x, such as the logs of counts.

    Args:
        model: the generative program; its latent sites must have real support and lie in the data plate.
        encoder: ``"mlp"``, ``"conv"``, or a module from ``(..., *data_shape)``, or what is seen of it, to
            ``(..., 2 * total latent size)``.
        hidden_dims: widths of the encoder's layers from x to z (conv: channels).
        activation: its nonlinearity, by name.
        min_scale: lower bound of sigma.

    Raises:
        InputError: if the model has no such data site, has no latent site, or has one that is not real-valued or
            not in the data plate.

    Source: Kingma & Welling 2014, arXiv:1312.6114.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> pyro_vae.encode(model, guide, torch.ones(5, 1, 8, 8))["z"].shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__()
        data_shape, latents = data_and_latent_shapes(model)
        self.latent_shapes = latents
        self.min_scale = below_one("min_scale", min_scale)
        size = sum(math.prod(shape) for shape in latents.values())
        self.seen = getattr(model, "seen", None)
        if self.seen is not None:
            data_shape = tuple(self.seen(torch.zeros(1, *data_shape)).shape[1:])
        self.encoder = make_encoder(encoder, data_shape, hidden_dims, 2 * size, activation)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sample every latent site given data ``x`` (batch, *data_shape)."""
        q = diagonal_normal(
            self.encoder(x if self.seen is None else self.seen(x)), self.min_scale
        )  # (batch, total latent size)
        sizes = [math.prod(shape) for shape in self.latent_shapes.values()]
        samples = {}
        with pyro.plate("data", x.shape[0], dim=-1):
            for (name, shape), m, s in zip(
                self.latent_shapes.items(), q.loc.split(sizes, -1), q.scale.split(sizes, -1), strict=True
            ):
                event = m.shape[:-1] + shape  # (batch, *event shape of the site)
                normal = dist.Normal(m.reshape(event), s.reshape(event))
                samples[name] = pyro.sample(name, normal.to_event(len(shape)))
        return samples
