"""A model of images without latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.likelihoods import Likelihood, PixelCNN
from pyro_vae.models.base import GenerativeModel


class PixelModel(GenerativeModel):
    """x ~ likelihood: a PixelCNN over the pixels themselves, given nothing.

    It has no latents (its guide is :class:`~pyro_vae.guides.EmptyGuide`), so that the ELBO is log p(x) itself.

    Args:
        data_shape: shape of one datum, (channels, height, width).
        likelihood: p(x), one that takes no features; ``PixelCNN(features=0)`` of so many channels if not given.
        data_mean: mean of the training data, shape ``data_shape``; the likelihood's output starts there.

    Raises:
        InputError: for a likelihood that takes features, or other data, and for a data_mean of another shape.

    Source: van den Oord et al. 2016, arXiv:1606.05328.

    Example:
        >>> import pyro_vae
        >>> likelihood = pyro_vae.likelihoods.PixelCNN(features=0, channels=8)
        >>> model, guide = pyro_vae.models.PixelModel((1, 6, 6), likelihood), pyro_vae.guides.EmptyGuide()
        >>> x = pyro_vae.sample(model, 5)["x"]
        >>> pyro_vae.log_likelihood(model, guide, x, num_particles=1, progress=False).per_datum.shape
        torch.Size([5])
    """

    nothing: Tensor

    def __init__(
        self, data_shape: Sequence[int], likelihood: Likelihood | None = None, data_mean: Tensor | None = None
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.likelihood = (
            likelihood if likelihood is not None else PixelCNN(features=0, data_channels=self.data_shape[0])
        )
        if math.prod(self.feature_shape):
            raise InputError(
                f"PixelModel has no decoder, and {type(self.likelihood).__name__} takes features of shape "
                f"{self.feature_shape}: give PixelCNN(features=0)"
            )
        self.register_buffer("nothing", torch.zeros(self.feature_shape), persistent=False)
        self.init_output_bias(nn.Identity(), data_mean)

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on data ``x`` (batch, *data_shape), or sample ``num_samples`` data."""
        with self.data_plate(x, num_samples):
            return pyro.sample("x", self.likelihood(self.nothing, len(self.data_shape)), obs=x)
