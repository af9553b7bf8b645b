"""The base of likelihoods of whole images, whose numbers are each of an elementwise output."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions import GreyLevels
from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.bernoulli import Bernoulli


class ImageLikelihood(Likelihood):
    """A likelihood of images of C channels, made of a likelihood of single numbers.

    Args:
        output: of single binary numbers or grey levels; Bernoulli if not given.
        data_channels: C of the images.

    Raises:
        InputError: for an output that is a density, or of whole data; a number of channels that is not positive.
    """

    def __init__(self, output: Likelihood | None, data_channels: int) -> None:
        super().__init__()
        self.output = output if output is not None else Bernoulli()
        self.support = getattr(self.output, "support", None)
        of_levels = self.support is constraints.boolean or isinstance(self.support, GreyLevels)
        if not of_levels or isinstance(self.output, ImageLikelihood):
            raise InputError(
                f"{type(self).__name__}: output must be a likelihood of binary numbers or of grey levels (Bernoulli, "
                f"Categorical, DiscretizedLogisticMixture), got {type(self.output).__name__}"
            )
        self.data_channels = positive(f"{type(self).__name__}: data_channels", data_channels)

    def check_images(self, data_shape: Sequence[int]) -> None:
        """Check that data are images (C, height, width).

        Raises:
            InputError: if they are not.
        """
        if len(data_shape) != 3 or data_shape[0] != self.data_channels:
            raise InputError(
                f"{type(self).__name__} with data_channels={self.data_channels} is for images ({self.data_channels}, "
                f"height, width); the data have shape {tuple(data_shape)}"
            )

    def check_features(self, features: Tensor, event_dim: int, sides: str) -> None:
        """Check that a decoder's features are of images, ``(..., num_parameters, *sides)``.

        Args:
            features: what the likelihood is given.
            event_dim: number of dimensions of a datum.
            sides: what the last two dimensions are called.

        Raises:
            InputError: if they are not.
        """
        if event_dim != 3 or features.dim() < 3 or features.shape[-3] != self.num_parameters:
            raise InputError(
                f"{type(self).__name__} needs features (..., {self.num_parameters}, {sides}) and event_dim 3; got "
                f"features of shape {tuple(features.shape)} and event_dim {event_dim}"
            )
