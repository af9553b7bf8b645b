"""The guide of completion models, and the empty guide of models without latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.errors import below_one
from pyro_vae.models.completion import CompletionVAE, visible
from pyro_vae.networks import diagonal_normal, make_encoder


class CompletionGuide(PyroModule):
    """q(z | x, y) = N(mu(x, y), diag sigma(x, y)^2), where x is the whole image and y its observed part.

    Args:
        model: the generative model, whose sizes are taken.
        encoder: ``"mlp"``, ``"conv"``, or a module from ``(batch, 2 * data_shape[0], *data_shape[1:])`` to
            ``(batch, 2 * latent_dim)``.
        hidden_dims: widths of the encoder's layers from x to z (conv: channels).
        activation: its nonlinearity, by name.
        min_scale: lower bound of sigma.

    Source: Sohn et al. 2015, NeurIPS 28.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.CompletionVAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.CompletionGuide(model, hidden_dims=(16,))
        >>> x, mask = torch.ones(5, 1, 8, 8), torch.arange(8).expand(5, 1, 8, 8) < 4
        >>> pyro_vae.encode(model, guide, {"x": x, "y": x, "mask": mask})["z"].shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        model: CompletionVAE,
        encoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (500, 500),
        activation: str = "relu",
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__()
        self.context = model.context
        self.rank, self.min_scale = len(model.data_shape), below_one("min_scale", min_scale)
        channels, *rest = model.data_shape
        self.encoder = make_encoder(encoder, (2 * channels, *rest), hidden_dims, 2 * model.latent_dim, activation)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """Sample z given data ``x``, their observed part ``y`` and ``mask``, each ``(batch, *data_shape)``."""
        features = self.encoder(torch.cat([x, visible(y, mask)], -self.rank))  # (batch, 2 * latent_dim)
        with pyro.plate("data", x.shape[0], dim=-1):
            return pyro.sample("z", diagonal_normal(features, self.min_scale).to_event(1))


class EmptyGuide(PyroModule):
    """The guide of a model without latents: it samples nothing, so that the ELBO is log p(x) itself.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.CompletionBaseline((1, 8, 8), baseline_hidden_dims=(16,))
        >>> x, mask = torch.ones(5, 1, 8, 8), torch.arange(8).expand(5, 1, 8, 8) < 4
        >>> batch = {"x": x, "y": x, "mask": mask}
        >>> pyro_vae.log_likelihood(model, pyro_vae.guides.EmptyGuide(), batch, progress=False).per_datum.shape
        torch.Size([5])
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, **batch: Any) -> None:
        """Do nothing."""
