"""The hierarchical variational autoencoder's generative model, of any depth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pyro
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.models.base import LatentPriorModel
from pyro_vae.networks.conv import ConvDecoder
from pyro_vae.networks.mlp import GaussianMLP, MLPDecoder, hidden_layers
from pyro_vae.priors import LatentPrior


class HierarchicalVAE(LatentPriorModel):
    r"""z_L ~ N(0, I);  z_i | z_{i+1} ~ N(mu_i(z_{i+1}), sigma_i^2(z_{i+1}));  x | z_1 ~ likelihood(decoder(z_1)).

    Sites: ``z1`` (nearest to the data) to ``zL``, and ``x``. It is the generative model of the hierarchical VAE, of
    IWAE's two-layer model and of the ladder VAE, which differ in their guides
    (:class:`~pyro_vae.guides.HierarchicalGuide`, :class:`~pyro_vae.guides.LadderGuide`).

    Args:
        data_shape: shape of one datum, (channels, height, width) or (features,).
        latent_dims: dimensions of z_1, …, z_L.
        hidden_dims: width of the layers between x and z_1, between z_1 and z_2, …: as many as latent_dims.
        num_hidden: layers in each of these networks (0: linear maps).
        channels: of strided convolutions between x and these layers, finest first; none: no convolutions.
        likelihood: p(x | decoder features); Bernoulli if not given.
        activation: nonlinearity, by name.
        batch_norm: normalize every dense layer but the output of x; convolutions are not normalized.
        data_mean: mean of the training data, shape ``data_shape``; the decoder's output bias starts there.
        prior: p(z_L), learned, of shape latent_dims[-1:]; N(0, I) if not given.

    Raises:
        InputError: for no or non-positive sizes, lists of different length, an unknown activation, a data_mean of
            another shape.

    Source: Burda et al. 2016, arXiv:1509.00519 (two layers); Sønderby et al. 2016, arXiv:1602.02282 (five).

    Example:
        >>> import pyro_vae
        >>> model = pyro_vae.models.HierarchicalVAE((1, 8, 8), latent_dims=(4, 2), hidden_dims=(16, 8))
        >>> {name: tuple(value.shape) for name, value in pyro_vae.sample(model, 5).items() if name != "x.mean"}
        {'z2': (5, 2), 'z1': (5, 4), 'x': (5, 1, 8, 8)}
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dims: Sequence[int] = (64, 32, 16, 8, 4),
        hidden_dims: Sequence[int] = (512, 256, 128, 64, 32),
        num_hidden: int = 2,
        channels: Sequence[int] = (),
        likelihood: Likelihood | None = None,
        activation: str = "leaky_relu_tenth",
        batch_norm: bool = False,
        data_mean: Tensor | None = None,
        prior: LatentPrior | None = None,
    ) -> None:
        super().__init__()
        check_layers(latent_dims, hidden_dims)
        self.data_shape, self.latent_dims = tuple(data_shape), tuple(latent_dims)
        self.likelihood = likelihood if likelihood is not None else Bernoulli()
        hidden = [[width] * num_hidden for width in hidden_dims]
        if channels:
            widths = [latent_dims[0], *hidden[0]]
            self.below = hidden_layers(widths, activation, batch_norm)
            self.decoder: nn.Module = ConvDecoder(widths[-1], channels[::-1], self.feature_shape, activation)
        else:
            self.below = nn.Identity()
            self.decoder = MLPDecoder(latent_dims[0], hidden[0], self.feature_shape, activation, batch_norm)
        self.conditionals = nn.ModuleList(  # p(z_i | z_{i+1}), i = 1 … L-1
            GaussianMLP(above, widths, size, activation, batch_norm)
            for (size, above), widths in zip(itertools.pairwise(latent_dims), hidden[1:], strict=True)
        )
        self.take_prior(prior, f"z{len(latent_dims)}", latent_dims[-1:])
        self.init_output_bias(self.decoder, data_mean)

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, or sample ``num_samples`` data."""
        with self.data_plate(x, num_samples):
            z = pyro.sample(f"z{len(self.latent_dims)}", self.prior())  # (..., batch, latent_dims[-1])
            for i in range(len(self.latent_dims) - 1, 0, -1):
                z = pyro.sample(f"z{i}", self.conditionals[i - 1](z).to_event(1))  # (..., batch, latent_dims[i-1])
            features = self.decoder(self.below(z))  # (..., batch, P * channels, height, width)
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)


def check_layers(latent_dims: Sequence[int], hidden_dims: Sequence[int]) -> None:
    """Check the sizes of a hierarchy.

    Raises:
        InputError: for no layer, lists of different length, or sizes that are not positive.
    """
    if not latent_dims or len(latent_dims) != len(hidden_dims):
        raise InputError(
            f"latent_dims (z1 … zL) and hidden_dims need one number for each layer, got {list(latent_dims)} and "
            f"{list(hidden_dims)}"
        )
    if min(*latent_dims, *hidden_dims) < 1:
        raise InputError(
            f"latent_dims and hidden_dims must be positive, got {list(latent_dims)} and {list(hidden_dims)}"
        )
