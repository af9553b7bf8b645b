"""A variational autoencoder's generative model whose latent is drawn from its class's part of the prior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.gaussian import VAE
from pyro_vae.priors import LatentPrior


class ClassPriorVAE(VAE):
    """z | y ~ p(z | y), or p(z) where y is not known;  x | z ~ likelihood(decoder(z)).

    Sites and weights are those of :class:`~pyro_vae.models.VAE` with this prior, which is the same model but for y: the
    decoder sees z alone. Its densities are those given the labels that it is given: log p(x | y) of a datum with one,
    and log p(x), of the whole mixture, of a datum without (-1, or no y at all). Data that carry labels are measured
    without them by ``log_likelihood(model, guide, {"x": x})``, by the same weights in a ``VAE``, and by the commands,
    which leave them out unless they are asked for (``pyro-vae evaluate DIR --given y``).

    Args:
        data_shape: shape of one datum, (channels, height, width) or (features,).
        prior: p(z | y), of shape (latent_dim,), which averages over y where it is not given:
            :class:`~pyro_vae.priors.PinwheelPrior`, :class:`~pyro_vae.priors.SwissRollPrior`,
            :class:`~pyro_vae.priors.ClassMixturePrior`.
        latent_dim, likelihood, decoder, hidden_dims, activation, data_mean: as of :class:`~pyro_vae.models.VAE`.

    Raises:
        InputError: for a prior that does not take y or cannot be without, and as :class:`~pyro_vae.models.VAE`.

    Source: Makhzani et al. 2015, arXiv:1511.05644, section 2.3.

    Example:
        >>> import pyro_vae, torch
        >>> prior = pyro_vae.priors.PinwheelPrior(num_classes=10)
        >>> model = pyro_vae.models.ClassPriorVAE((1, 8, 8), prior, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> batch = {"x": torch.ones(3, 1, 8, 8), "y": torch.tensor([0, 9, -1])}  # -1: not known
        >>> pyro_vae.log_likelihood(model, guide, batch, num_particles=10).per_datum.shape
        torch.Size([3])
        >>> pyro_vae.sample(model, 2, batch={"y": torch.tensor([0, 9])})["z"].shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        prior: LatentPrior,
        latent_dim: int = 2,
        likelihood: Likelihood | None = None,
        decoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__(data_shape, latent_dim, likelihood, decoder, hidden_dims, activation, data_mean, prior)
        own = getattr(prior, "context", {}).get("y")
        if own is None:  # one that cannot be without y has been refused
            raise InputError(
                f"ClassPriorVAE takes a prior over z given y, such as priors.PinwheelPrior, and "
                f"{type(prior).__name__} does not take y: take VAE"
            )
        self.context = {"y": own}

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, and labels ``y``, (batch,), -1 where not known."""
        with self.data_plate(y if x is None else x, num_samples):
            z = pyro.sample("z", self.prior(y=y))  # (..., batch, latent_dim)
            features = self.decoder(z)  # (..., batch, P * channels, height, width)
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)
