"""The generative model of a field given an image: colours of a grey picture, motions of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor

from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods import Gaussian, Likelihood
from pyro_vae.models.base import LatentPriorModel
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
        self.data_shape, self.image_shape = tuple(data_shape), tuple(image_shape)
        if len(self.data_shape) != 3:
            raise InputError(f"FieldVAE: data_shape must be (channels, height, width), got {self.data_shape}")
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
        """Run the program on data ``x`` (batch, *data_shape), or sample a datum for each image."""
        grids = self.encoder.grids(image)  # (batch, channels, height, width) each
        with self.data_plate(image):
            z = pyro.sample("z", self.prior(image, grids))  # (..., batch, latent_dim)
            features = self.decoder(z, grids)  # (..., batch, P * channels, height, width)
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)
