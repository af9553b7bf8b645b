"""A model of images without latents."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyro_vae.likelihoods import Likelihood, PixelCNN
from pyro_vae.models.base import LikelihoodModel


class PixelModel(LikelihoodModel):
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

    def __init__(
        self, data_shape: Sequence[int], likelihood: Likelihood | None = None, data_mean: Tensor | None = None
    ) -> None:
        shape = tuple(data_shape)
        super().__init__(shape, PixelCNN(features=0, data_channels=shape[0]) if likelihood is None else likelihood)
        self.init_output_bias(nn.Identity(), data_mean)
