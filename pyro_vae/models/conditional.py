"""The conditional variational autoencoder's generative model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from pyro_vae.errors import positive
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.models.base import LatentPriorModel
from pyro_vae.networks import MLP, Condition, OneHot, beside, diagonal_normal, make_decoder
from pyro_vae.priors import LatentPrior


class ConditionalVAE(LatentPriorModel):
    """z | y ~ N(mu(y), diag sigma(y)^2);  x | z, y ~ likelihood(decoder(z, y)).

    Sites: ``z`` with event shape (latent_dim,), ``x`` with event shape ``data_shape``. The context ``y`` is always
    needed; the data plate is as long as it.

    Args:
        data_shape: shape of one datum, (channels, height, width) or (features,).
        condition: what y is, and its features c(y): :class:`~pyro_vae.networks.OneHot` of 10 classes if not given,
            :class:`~pyro_vae.networks.Attributes`, or a :class:`~pyro_vae.networks.Condition` of one's own.
        latent_dim: dimensions of z.
        likelihood: p(x | decoder features); Bernoulli if not given.
        decoder: ``"mlp"``, ``"conv"``, or a module from ``(..., latent_dim + condition.dim)`` to
            ``(..., likelihood.num_parameters * data_shape[0], *data_shape[1:])``.
        hidden_dims: widths of the decoder's layers from (z, c(y)) to x (conv: channels, coarsest first).
        prior_hidden_dims: widths of the prior network's layers, from c(y) to the moments of z; none: linear, which
            for a class label is a table of moments.
        activation: the networks' nonlinearity, by name.
        data_mean: mean of the training data, shape ``data_shape``; the decoder's output bias starts there.
        prior: p(z | y), learned, of shape (latent_dim,), in place of the Gaussian by prior_hidden_dims;
            :class:`~pyro_vae.priors.MixtureDensityPrior`, or one that does not look at y.

    Raises:
        InputError: for an unknown decoder or activation, a non-positive latent_dim, a data_mean of another shape, a
            prior of another shape.

    Source: Sohn et al. 2015, "Learning structured output representation using deep conditional generative models",
    NeurIPS 28, equation 4.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.ConditionalVAE((1, 8, 8), pyro_vae.networks.OneHot(10), latent_dim=2)
        >>> pyro_vae.sample(model, 3, batch={"y": torch.tensor([0, 1, 9])})["x"].shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        condition: Condition | None = None,
        latent_dim: int = 20,
        likelihood: Likelihood | None = None,
        decoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (200, 200),
        prior_hidden_dims: Sequence[int] = (),
        activation: str = "tanh",
        data_mean: Tensor | None = None,
        prior: LatentPrior | None = None,
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.latent_dim = positive("latent_dim", latent_dim)
        self.likelihood = likelihood if likelihood is not None else Bernoulli()
        self.condition = condition if condition is not None else OneHot(10)
        self.context = {"y": self.condition.accepts}
        self.take_prior(prior, "z", (latent_dim,))
        self.prior_network = None
        if prior is None:
            self.prior_network = MLP(self.condition.dim, prior_hidden_dims, 2 * latent_dim, activation)
        self.decoder = make_decoder(
            decoder, latent_dim + self.condition.dim, hidden_dims, self.feature_shape, activation
        )
        self.init_output_bias(self.decoder, data_mean)

    def prior(self, c: Tensor, y: Tensor | None = None) -> Any:  # type: ignore[override]
        """p(z | y), event shape (latent_dim,).

        Args:
            c: the features c(y) ``(batch, condition.dim)``.
            y: the context itself, which a learned prior is given.
        """
        if self.latent_prior is not None:
            return super().prior(y=y)
        return diagonal_normal(self.prior_network(c)).to_event(1)

    def forward(self, x: Tensor | None = None, *, y: Tensor) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, or sample a datum for each ``y`` (batch, ...)."""
        c = self.condition(y)  # (batch, condition.dim)
        with self.data_plate(y):
            z = pyro.sample("z", self.prior(c, y))  # (..., batch, latent_dim)
            zy = beside(z, c)  # (..., batch, latent_dim + condition.dim)
            features = self.decoder(zy)  # (..., batch, P * channels, height, width)
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)
