"""The Gaussian variational autoencoder's generative model."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from torch import Tensor, nn

from pyro_vae.errors import positive
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.models.base import LatentPriorModel
from pyro_vae.networks import make_decoder
from pyro_vae.priors import LatentPrior


class VAE(LatentPriorModel):
    """z ~ N(0, I);  x | z ~ likelihood(decoder(z)).

    Sites: ``z`` with event shape (latent_dim,), ``x`` with event shape ``data_shape``.

    Args:
        data_shape: shape of one datum, (channels, height, width) or (features,).
        latent_dim: dimensions of z.
        likelihood: p(x | decoder features); Bernoulli if not given.
        decoder: ``"mlp"``, ``"conv"``, or a module from ``(..., latent_dim)`` to
            ``(..., likelihood.num_parameters * data_shape[0], *data_shape[1:])``.
        hidden_dims: widths of the decoder's layers from z to x (conv: channels, see
            :class:`~pyro_vae.networks.ConvDecoder`).
        activation: its nonlinearity, by name.
        data_mean: mean of the training data, shape ``data_shape``; the decoder's output bias starts there.
        prior: p(z), learned, of shape (latent_dim,); N(0, I) if not given.

    Raises:
        InputError: for an unknown decoder or activation, a non-positive latent_dim, a data_mean of another shape.

    Source: Kingma & Welling 2014, arXiv:1312.6114; sizes of Burda et al. 2016, arXiv:1509.00519.

    Example:
        >>> import pyro_vae
        >>> model = pyro_vae.models.VAE((1, 28, 28), latent_dim=2)
        >>> drawn = pyro_vae.sample(model, 5)
        >>> drawn["z"].shape, drawn["x"].shape
        (torch.Size([5, 2]), torch.Size([5, 1, 28, 28]))
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dim: int = 50,
        likelihood: Likelihood | None = None,
        decoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        data_mean: Tensor | None = None,
        prior: LatentPrior | None = None,
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.latent_dim = positive("latent_dim", latent_dim)
        self.likelihood = likelihood if likelihood is not None else Bernoulli()
        self.decoder = make_decoder(decoder, latent_dim, hidden_dims, self.feature_shape, activation)
        self.take_prior(prior, "z", (latent_dim,))
        self.init_output_bias(self.decoder, data_mean)

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, or sample ``num_samples`` data."""
        with self.data_plate(x, num_samples):
            z = pyro.sample("z", self.prior())  # (..., batch, latent_dim)
            features = self.decoder(z)  # (..., batch, P * channels, height, width)
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)
