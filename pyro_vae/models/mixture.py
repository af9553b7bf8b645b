"""The Gaussian mixture VAE's generative model: clusters in latent space."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.errors import positive
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.gaussian import VAE


class GaussianMixtureVAE(VAE):
    """c ~ Categorical(pi);  z | c ~ N(mu_c, diag sigma_c^2);  x | z ~ likelihood(decoder(z)).

    Sites: ``c``, ``z`` with event shape (latent_dim,), ``x`` with event shape ``data_shape``. No guide needs to draw c:
    its K values are summed over exactly, and :func:`~pyro_vae.evaluation.posterior_probabilities` says which cluster a
    datum belongs to.

    Args:
        data_shape: shape of one datum, (channels, height, width) or (features,).
        num_components: K.
        latent_dim: dimensions of z.
        likelihood, decoder, hidden_dims, activation, data_mean: as of :class:`~pyro_vae.models.VAE`.

    Raises:
        InputError: as :class:`~pyro_vae.models.VAE`; if num_components is not positive.

    Source: Jiang et al. 2017, arXiv:1611.05148 (the mixture prior); Dilokthanakul et al. 2016, arXiv:1611.02648.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.GaussianMixtureVAE((1, 8, 8), num_components=3, latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> pyro_vae.posterior_probabilities(model, guide, torch.ones(4, 1, 8, 8))["c"].shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_components: int = 10,
        latent_dim: int = 10,
        likelihood: Likelihood | None = None,
        decoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__(data_shape, latent_dim, likelihood, decoder, hidden_dims, activation, data_mean)
        positive("num_components", num_components)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.means = nn.Parameter(torch.randn(num_components, latent_dim))
        self.raw_scales = nn.Parameter(torch.full((num_components, latent_dim), 0.5413))  # softplus gives 1

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, or sample ``num_samples`` data."""
        with self.data_plate(x, num_samples):
            c = pyro.sample("c", dist.Categorical(logits=self.logits))
            z = pyro.sample("z", dist.Normal(self.means[c], softplus(self.raw_scales)[c]).to_event(1))
            features = self.decoder(z)  # (..., batch, P * channels, height, width)
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)
