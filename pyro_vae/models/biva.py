"""The bidirectional-inference variational autoencoder's generative model."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.models.base import LatentPriorModel
from pyro_vae.models.hierarchical import check_layers
from pyro_vae.networks.features import FeatureGaussian, FeatureMap, FeatureOutput, Shape, Stage
from pyro_vae.networks.layers import activation as make_activation
from pyro_vae.priors import LatentPrior


class BIVA(LatentPriorModel):
    r"""A hierarchy with two latents a stage and a deterministic top-down path that carries everything down.

    .. math::
        z_L \sim N(0, I), \quad h_i = f_i(d_{i+1}, d_{i+2}), \quad
        z_i^{BU}, z_i^{TD} \sim N(\mu_i(h_i), \sigma_i^2(h_i)), \quad
        d_i = h_i + g_i(z_i^{BU}, z_i^{TD}), \quad x \sim likelihood(decoder(d_1))

    with f_i gated residual blocks, d_{i+2} their skip connection, d_L = g_L(z_L). Sites: ``z1_bu``, ``z1_td``, …,
    ``zL``, ``x``: 2 L - 1 latents. Linear maps have weight normalization, which ``fit`` initializes from the first
    batch.

    Args:
        data_shape: shape of one datum, (channels, height, width) or (features,).
        latent_dims: dimensions of z_1, …, z_L; z_i^BU and z_i^TD have as many each.
        widths: channels (units) of the features of stages 1 … L.
        strides: 1 or 2 for each stage: by what it shrinks the image on the way up. None: features are vectors.
        num_blocks: residual blocks a stage.
        likelihood: p(x | decoder features); Bernoulli if not given.
        activation: nonlinearity, by name.
        dropout: rate inside the blocks.
        data_mean: mean of the training data, shape ``data_shape``; the decoder's output bias starts there.
        prior: p(z_L), learned, of shape latent_dims[-1:]; N(0, I) if not given.

    Raises:
        InputError: for sizes that are not positive or lists of different length, strides other than 1 and 2, an unknown
            activation, a data_mean of another shape.

    Source: Maaløe et al. 2019, arXiv:1902.02102.

    Example:
        >>> import pyro_vae
        >>> model = pyro_vae.models.BIVA((1, 8, 8), latent_dims=(4, 2), widths=(8, 8), strides=(2, 1), num_blocks=1)
        >>> {name: tuple(value.shape) for name, value in pyro_vae.sample(model, 5).items() if name.startswith("z")}
        {'z2': (5, 2), 'z1_bu': (5, 4), 'z1_td': (5, 4)}
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dims: Sequence[int] = (48, 40, 32, 24, 16, 8),
        widths: Sequence[int] = (64, 64, 64, 64, 64, 64),
        strides: Sequence[int] | None = (2, 1, 1, 1, 1, 2),
        num_blocks: int = 3,
        likelihood: Likelihood | None = None,
        activation: str = "elu",
        dropout: float = 0.0,
        data_mean: Tensor | None = None,
        prior: LatentPrior | None = None,
    ) -> None:
        super().__init__()
        check_layers(latent_dims, widths)
        positive("num_blocks", num_blocks)
        self.data_shape, self.latent_dims = tuple(data_shape), tuple(latent_dims)
        self.shapes = stage_shapes(self.data_shape, widths, strides)
        self.likelihood = likelihood if likelihood is not None else Bernoulli()
        act, shapes, below_top = make_activation(activation), self.shapes, range(len(latent_dims) - 1)
        self.top = FeatureMap((latent_dims[-1],), shapes[-1])
        self.states = nn.ModuleList(
            Stage(shapes[i + 1], shapes[i], skip, act, num_blocks, dropout=dropout)
            for i, skip in zip(below_top, [*shapes[2:], None], strict=False)
        )
        self.priors_bu = nn.ModuleList(FeatureGaussian(shapes[i], latent_dims[i], act) for i in below_top)
        self.priors_td = nn.ModuleList(FeatureGaussian(shapes[i], latent_dims[i], act) for i in below_top)
        self.inject = nn.ModuleList(FeatureMap((2 * latent_dims[i],), shapes[i]) for i in below_top)
        inner = shapes[0] if strides is None else (widths[0], *self.data_shape[1:])
        self.decoder = FeatureOutput(shapes[0], inner, self.feature_shape, act)
        self.take_prior(prior, f"z{len(latent_dims)}", latent_dims[-1:])
        self.init_output_bias(self.decoder, data_mean)

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, or sample ``num_samples`` data."""
        with self.data_plate(x, num_samples):
            z = pyro.sample(f"z{len(self.latent_dims)}", self.prior())  # (..., batch, latent_dims[-1])
            d, above = self.top(z), None  # (..., batch, *shapes[-1])
            for i in range(len(self.latent_dims) - 1, 0, -1):
                h = self.states[i - 1](d, above)  # (..., batch, *shapes[i-1])
                here = {"features": h}  # for a guide that looks at the top-down state
                bu = pyro.sample(f"z{i}_bu", self.priors_bu[i - 1](h).to_event(1), infer=here)
                td = pyro.sample(f"z{i}_td", self.priors_td[i - 1](h).to_event(1), infer=here)
                d, above = h + self.inject[i - 1](torch.cat([bu, td], -1)), d
            features = self.decoder(d)  # (..., batch, P * channels, height, width)
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)


def stage_shapes(data_shape: Shape, widths: Sequence[int], strides: Sequence[int] | None) -> list[Shape]:
    """Feature shapes of stages 1 … L: (width,), or (width, height, width of the image) by the strides.

    Raises:
        InputError: for strides of another number than widths, or other than 1 and 2, or data that are no images.
    """
    if strides is None:
        return [(width,) for width in widths]
    if len(data_shape) != 3:
        raise InputError(
            f"strides are for images (C, H, W), data have shape {data_shape}: use strides=None for vectors"
        )
    if len(strides) != len(widths) or not set(strides) <= {1, 2}:
        raise InputError(f"strides must be 1 or 2 for each of the {len(widths)} stages, got {list(strides)}")
    shapes, height, width = [], *data_shape[1:]
    for channels, stride in zip(widths, strides, strict=True):
        height, width = -(-height // stride), -(-width // stride)
        shapes.append((channels, height, width))
    return shapes
