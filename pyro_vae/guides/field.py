"""The guide of a field given an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from pyro_vae.errors import InputError, below_one
from pyro_vae.models.field import FieldVAE
from pyro_vae.networks import ContextEncoder, PlaceEncoder, diagonal_normal


class FieldEncoder(nn.Module):
    """A field and the image that it lies over, as channels of one grid, to a vector ``(batch, dim)``, or one a place.

    Args:
        data_shape, image_shape: (channels, height, width) of both; the image is averaged to the field's sides.
        channels, dim, num_blocks, activation, batch_norm: of the :class:`~pyro_vae.networks.ContextEncoder`, whose
            vector is not normalized here: how large the field's numbers are is to be seen in it.
        local: vectors of every place, ``(batch, height, width, dim)``, with ``channels[0]`` channels before.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        image_shape: Sequence[int],
        channels: Sequence[int],
        dim: int,
        num_blocks: int,
        activation: str,
        batch_norm: bool,
        local: bool = False,
    ) -> None:
        super().__init__()
        both, how = (data_shape[0] + image_shape[0], *data_shape[1:]), (dim, num_blocks, activation, batch_norm)
        self.both = PlaceEncoder(both, channels[0], *how) if local else ContextEncoder(both, channels, *how, False)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """The vectors of fields ``(batch, *data_shape)`` and their images ``(batch, *image_shape)``."""
        return self.both(torch.cat([x, adaptive_avg_pool2d(image, x.shape[-2:])], -3))


class FieldGuide(PyroModule):
    """q(z | x, image) = N(mu(x, image), diag sigma(x, image)^2), from both as channels of one grid.

    Args:
        model: the generative model, whose sizes are taken.
        channels: of the features at every scale, finest first.
        context_dim: of the vector that the moments are linear in.
        num_blocks: residual blocks at every scale.
        activation: nonlinearity, by name.
        batch_norm: normalize inside the blocks.
        min_scale: lower bound of sigma.
        initial_scale: about where sigma starts. Far below 1, codes tell data apart from the first step on, before the
            decoder has learned to do without them.

    Raises:
        InputError: for an initial_scale that is not above min_scale, sizes that are not positive, data too small for
            so many scales, an unknown activation.

    Source: Sohn et al. 2015, NeurIPS 28; Deshpande et al. 2017, arXiv:1612.01958.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.FieldVAE((2, 16, 16), (1, 16, 16), latent_dim=3, channels=(8, 12), context_dim=10)
        >>> guide = pyro_vae.guides.FieldGuide(model, channels=(8, 12), context_dim=10)
        >>> pyro_vae.encode(model, guide, {"x": torch.rand(5, 2, 16, 16), "image": torch.rand(5, 1, 16, 16)})["z"].shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        model: FieldVAE,
        channels: Sequence[int] = (32, 64, 128),
        context_dim: int = 128,
        num_blocks: int = 1,
        activation: str = "relu",
        batch_norm: bool = False,
        min_scale: float = 1e-4,
        initial_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not (initial_scale > min_scale and math.isfinite(initial_scale)):
            raise InputError(f"FieldGuide: initial_scale must be above min_scale, {min_scale}, got {initial_scale}")
        self.context, self.min_scale = model.context, below_one("min_scale", min_scale)
        how = (channels, context_dim, num_blocks, activation, batch_norm)
        self.encoder = FieldEncoder(model.data_shape, model.image_shape, *how)
        self.moments = nn.Linear(context_dim, 2 * model.latent_dim)
        with torch.no_grad():  # softplus(s + log(e - 1)) is the scale
            self.moments.bias[model.latent_dim :] += math.log(math.expm1(initial_scale)) - math.log(math.expm1(1))

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Sample z given data ``x``, ``(batch, *data_shape)`` and their images ``(batch, *image_shape)``."""
        features = self.moments(self.encoder(x, image))  # (batch, 2 * latent_dim)
        with pyro.plate("data", x.shape[0], dim=-1):
            return pyro.sample("z", diagonal_normal(features, self.min_scale).to_event(1))
