"""Generative models of a field given an image: colours of a grey picture, motions of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor

from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods import Gaussian, Likelihood
from pyro_vae.models.base import GenerativeModel, LatentPriorModel
from pyro_vae.networks import MLP, ContextEncoder, SkipDecoder, diagonal_normal
from pyro_vae.priors import LatentPrior


class FieldVAE(LatentPriorModel):
    r"""z | image ~ N(mu(image), diag sigma(image)^2);  x | z, image ~ likelihood(decoder(z, features(image))).

    x is a grid of numbers over the image; z says what the image leaves open. Sites: ``z`` with event shape
    (latent_dim,), ``x`` with event shape ``data_shape``. The context ``image`` is always needed; the data plate is as
    long as it.

    Args:
        data_shape: shape of one datum, (channels, height, width), with the sides of the image or of one of the scales.
        image_shape: of the image, (channels, height, width).
        latent_dim: dimensions of z.
        likelihood: p(x | decoder features); a Gaussian with a learned scale if not given.
        channels: of the image's features at every scale, finest first; see :class:`~pyro_vae.networks.ContextEncoder`.
        context_dim: of the vector of the image's features that the prior sees.
        num_blocks: residual blocks at every scale, of encoder and decoder.
        prior_hidden_dims: widths of the prior network's layers, from that vector to the moments of z; none: linear.
            None: z ~ N(0, I), whatever the image.
        activation: the networks' nonlinearity, by name.
        batch_norm: normalize inside the blocks.
        data_mean: mean of the training data, shape ``data_shape``; the decoder's output bias starts there.
        prior: p(z | image), learned, of shape (latent_dim,), in place of the Gaussian by prior_hidden_dims;
            :class:`~pyro_vae.priors.MixtureDensityPrior` with a :class:`~pyro_vae.networks.ContextEncoder` and
            ``argument="image"``, or one that does not look at the image.

    Raises:
        InputError: for shapes that do not fit each other, sizes that are not positive, an unknown activation, a
            data_mean or a prior of another shape.

    Source: Sohn et al. 2015, NeurIPS 28 (conditional VAE); Deshpande et al. 2017, arXiv:1612.01958 (features of the
    grey image beside the decoder's).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.FieldVAE((2, 16, 16), (1, 16, 16), latent_dim=3, channels=(8, 12), context_dim=10)
        >>> pyro_vae.sample(model, 5, batch={"image": torch.rand(5, 1, 16, 16)})["x"].shape
        torch.Size([5, 2, 16, 16])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        image_shape: Sequence[int],
        latent_dim: int = 64,
        likelihood: Likelihood | None = None,
        channels: Sequence[int] = (32, 64, 128),
        context_dim: int = 128,
        num_blocks: int = 1,
        prior_hidden_dims: Sequence[int] | None = (),
        activation: str = "relu",
        batch_norm: bool = False,
        data_mean: Tensor | None = None,
        prior: LatentPrior | None = None,
    ) -> None:
        super().__init__()
        self.data_shape, self.image_shape = _field_shape(data_shape, type(self).__name__), tuple(image_shape)
        self.latent_dim = positive("latent_dim", latent_dim)
        self.likelihood = likelihood if likelihood is not None else Gaussian("learned")
        how = {"num_blocks": num_blocks, "activation": activation, "batch_norm": batch_norm}
        moments = prior is None and prior_hidden_dims is not None  # of z, by a network
        self.encoder = ContextEncoder(image_shape, channels, context_dim if moments else None, **how)
        self.decoder = SkipDecoder(latent_dim, self.encoder.scales, self.feature_shape, **how)
        self.context = {"image": self.encoder.accepts}
        self.take_prior(prior, "z", (latent_dim,))
        self.prior_network = None
        if moments:
            self.prior_network = MLP(context_dim, prior_hidden_dims, 2 * latent_dim, activation)
        self.init_output_bias(self.decoder, data_mean)

    def prior(self, image: Tensor, grids: Sequence[Tensor]) -> Any:  # type: ignore[override]
        """p(z | image), event shape (latent_dim,).

        Args:
            image: ``(batch, channels, height, width)``, which a learned prior is given.
            grids: its features.
        """
        if self.prior_network is None:
            return super().prior(image=image)
        return diagonal_normal(self.prior_network(self.encoder.vector(grids))).to_event(1)

    def forward(self, x: Tensor | None = None, *, image: Tensor) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, or sample a datum for each image."""
        grids = self.encoder.grids(image)  # (batch, channels, height, width) each
        with self.data_plate(image):
            z = pyro.sample("z", self.prior(image, grids))  # (..., batch, latent_dim)
            features = self.decoder(z, grids)  # (..., batch, P * channels, height, width)
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)


class FieldRegressor(GenerativeModel):
    r"""x | image ~ likelihood(decoder(features(image))): :class:`FieldVAE` without z, which gives one answer alone.

    What the image leaves open, it answers by the mean. The decoder sees the image's vector in the place of z, and its
    features at every scale. Site: ``x`` with event shape ``data_shape``. Its guide is
    :class:`~pyro_vae.guides.EmptyGuide`, and its ELBO log p(x | image) itself.

    Args:
        data_shape, image_shape, likelihood, channels, context_dim, num_blocks, activation, batch_norm, data_mean: as
            for :class:`FieldVAE`.

    Raises:
        InputError: for shapes that do not fit each other, sizes that are not positive, an unknown activation, a
            data_mean of another shape.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.FieldRegressor((2, 16, 16), (1, 16, 16), channels=(8, 12), context_dim=10)
        >>> pyro_vae.sample(model, 5, batch={"image": torch.rand(5, 1, 16, 16)})["x.mean"].shape
        torch.Size([5, 2, 16, 16])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        image_shape: Sequence[int],
        likelihood: Likelihood | None = None,
        channels: Sequence[int] = (32, 64, 128),
        context_dim: int = 128,
        num_blocks: int = 1,
        activation: str = "relu",
        batch_norm: bool = False,
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.data_shape, self.image_shape = _field_shape(data_shape, type(self).__name__), tuple(image_shape)
        self.likelihood = likelihood if likelihood is not None else Gaussian("learned")
        how = {"num_blocks": num_blocks, "activation": activation, "batch_norm": batch_norm}
        self.encoder = ContextEncoder(image_shape, channels, context_dim, **how)
        self.decoder = SkipDecoder(context_dim, self.encoder.scales, self.feature_shape, **how)
        self.context = {"image": self.encoder.accepts}
        self.init_output_bias(self.decoder, data_mean)

    def forward(self, x: Tensor | None = None, *, image: Tensor) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, or sample a datum for each image."""
        grids = self.encoder.grids(image)  # (batch, channels, height, width) each
        features = self.decoder(self.encoder.vector(grids), grids)  # (batch, P * channels, height, width)
        with self.data_plate(image):
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)


def _field_shape(data_shape: Sequence[int], model: str) -> tuple[int, ...]:
    if len(data_shape) != 3:
        raise InputError(f"{model}: data_shape must be (channels, height, width), got {tuple(data_shape)}")
    return tuple(data_shape)
