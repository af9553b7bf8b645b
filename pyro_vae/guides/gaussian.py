"""The Gaussian guide, for any model with real latents: diagonal, or with a covariance of full or low rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.guides.base import EncoderGuide


class GaussianGuide(EncoderGuide):
    r"""q(z | x) = prod_i N(z_i; mu_i(x), Sigma_i(x)), one factor per latent site of the model.

    (mu, s) = encoder(x) and sigma = softplus(s) + min_scale, with s shifted so that sigma = 1 where the encoder
    gives 0. Further outputs of the encoder make the covariance of a site's numbers of

    - ``"diagonal"``: diag sigma^2;
    - ``"full"``: L L^T, row i of the triangular L being sigma_i (a_i, 1) / norm: sigma are the standard deviations;
    - a rank r: W W^T + diag sigma^2, with r columns of W.

    The model is run once to read its latent sites and their shapes; it is not kept. A model may say by a module
    ``seen`` what the encoder is to be shown of x, such as the logs of counts.

    Args:
        model: the generative program; its latent sites must have real support and lie in the data plate.
        encoder: ``"mlp"``, ``"conv"``, or a module from ``(..., *data_shape)`` to ``(..., 2 * total latent size)``; for
            sites of d numbers, with a full covariance d (d - 1) / 2 more each, with one of rank r d * r more.
        hidden_dims: widths of the encoder's layers from x to z (conv: channels).
        activation: its nonlinearity, by name.
        min_scale: lower bound of sigma.
        covariance: ``"diagonal"``, ``"full"`` or a rank.

    Raises:
        InputError: if the model has no such data site, has no latent site, or has one that is not real-valued or
            not in the data plate; for an unknown covariance.

    Source: Kingma & Welling 2014, arXiv:1312.6114; Rezende et al. 2014, arXiv:1401.4082 (covariances).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,), covariance="full")
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
        covariance: Literal["diagonal", "full"] | int = "diagonal",
    ) -> None:
        ranked = isinstance(covariance, int) and not isinstance(covariance, bool) and covariance > 0
        if covariance not in ("diagonal", "full") and not ranked:
            raise InputError(f"covariance must be 'diagonal', 'full' or a positive rank, got {covariance!r}")

        def more(size: int) -> int:
            if isinstance(covariance, int):
                return size * covariance
            return size * (size - 1) // 2 if covariance == "full" else 0

        super().__init__(model, encoder, hidden_dims, activation, min_scale, more)
        self.covariance = covariance

    def posterior(self, name: str, normal: dist.Normal, features: Tensor) -> Any:
        """The Gaussian of a site's numbers."""
        size = normal.loc.shape[-1]
        if isinstance(self.covariance, int):
            factor = features.unflatten(-1, (size, self.covariance))
            return dist.LowRankMultivariateNormal(normal.loc, factor, normal.scale.square())
        if self.covariance == "diagonal" or size == 1:
            return normal.to_event(1)
        rows, columns = torch.tril_indices(size, size, -1, device=features.device)
        rows_of = torch.eye(size, dtype=features.dtype, device=features.device).repeat(*features.shape[:-1], 1, 1)
        rows_of[..., rows, columns] = features
        lower = normal.scale[..., None] * rows_of / rows_of.norm(dim=-1, keepdim=True)
        return dist.MultivariateNormal(normal.loc, scale_tril=lower)
