"""The conditional variational autoencoder's recognition model."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.errors import below_one
from pyro_vae.models.conditional import ConditionalVAE
from pyro_vae.networks import ConditionalEncoder, diagonal_normal


class ConditionalGuide(PyroModule):
    """q(z | x, y) = N(mu(x, y), diag sigma(x, y)^2).

    (mu, s) = encoder(x, c(y)) with the model's features c(y) of its context.

    Args:
        model: the generative model, whose sizes and condition are taken.
        encoder: ``"mlp"``, ``"conv"``, or a module from ``(batch, *data_shape)`` and ``(batch, condition.dim)`` to
            ``(batch, 2 * latent_dim)``.
        hidden_dims: widths of the encoder's layers from x to z (conv: channels).
        activation: its nonlinearity, by name.
        min_scale: lower bound of sigma.

    Source: Sohn et al. 2015, NeurIPS 28.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.ConditionalVAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.ConditionalGuide(model, hidden_dims=(16,))
        >>> batch = {"x": torch.ones(5, 1, 8, 8), "y": torch.arange(5)}
        >>> pyro_vae.encode(model, guide, batch)["z"].shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        model: ConditionalVAE,
        encoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__()
        self.condition, self.context = model.condition, model.context
        self.min_scale = below_one("min_scale", min_scale)
        if isinstance(encoder, str):
            out_dim = 2 * model.latent_dim
            encoder = ConditionalEncoder(
                encoder, model.data_shape, model.condition.dim, hidden_dims, out_dim, activation
            )
        self.encoder = encoder

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Sample z given data ``x``, ``(batch, *data_shape)`` and their context ``y`` (batch, ...)."""
        features = self.encoder(x, self.condition(y))  # (batch, 2 * latent_dim)
        with pyro.plate("data", x.shape[0], dim=-1):
            return pyro.sample("z", diagonal_normal(features, self.min_scale).to_event(1))
