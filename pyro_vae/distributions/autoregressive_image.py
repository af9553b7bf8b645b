"""A distribution over images, one pixel or patch after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions.patch_mixture import images_of


class PixelSteps(Protocol):
    """The memory of one batch of images in the making: gives the distribution of one step after another."""

    def __call__(self, position: int, values: Tensor) -> TorchDistribution:
        """The distribution of a step's numbers, ``(batch, ...)``, called for 0, 1, … in turn.

        Args:
            position: of the step, counted row by row, and within a pixel channel by channel.
            values: ``(batch, N)``, step after step, of which those before the position are known; the others are not
                to be looked at.
        """


class PixelNetwork(Protocol):
    """The network of an autoregressive distribution over images."""

    support: constraints.Constraint  # of each number
    data_channels: int
    side: int  # of a patch, the image's part at one place of the features' grid; 1: a pixel
    step_size: int  # how many numbers are drawn at once: a patch's, all C * side * side, or one

    def given_before(self, x: Tensor, features: Tensor) -> TorchDistribution:
        """All numbers of x, each given those before it: one pass.

        Args:
            x: ``(..., C, height, width)``.
            features: ``(..., F, rows, columns)``; its leading dimensions and those of x broadcast.

        Returns:
            a distribution of the leading dimensions with event shape ``(C, height, width)``.
        """

    def steps(self, features: Tensor) -> PixelSteps:
        """The memory for new images given features ``(batch, F, rows, columns)``."""


class AutoregressiveImage(TorchDistribution):
    r"""Images pixel by pixel: row by row, and within a pixel channel by channel, given features f; or patch by patch.

    .. math:: p(x | f) = \prod_i p(x_i | x_{<i}, f)

    with x_i a number, or all numbers of a patch. ``log_prob`` is one pass of the network over the whole image, in nats;
    ``sample`` computes each x_i once, from what those before it left in memory. There is no mean and no mode in closed
    form, and no property of that name: where a mean is shown, it is :meth:`mean_along` a draw
    (:func:`~pyro_vae.programs.sites.mean_of`).

    Args:
        network: gives the distribution of each x_i.
        features: what the network is given, ``(*batch_shape, F, rows, columns)``.
        validate_args: check values; by default torch's global setting.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import PixelCNN
        >>> fn = PixelCNN(features=4, channels=8)(torch.zeros(5, 4, 6, 6))
        >>> fn.event_shape, fn.log_prob(fn.sample((2,))).shape
        (torch.Size([1, 6, 6]), torch.Size([2, 5]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, network: PixelNetwork, features: Tensor, validate_args: bool | None = None) -> None:
        self.network, self.features = network, features
        shape = (network.data_channels, *(network.side * places for places in features.shape[-2:]))
        super().__init__(features.shape[:-3], torch.Size(shape), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=3)
    def support(self) -> constraints.Constraint:
        """What each number may be."""
        return constraints.independent(self.network.support, 3)

    def expand(self, batch_shape: Any, _instance: Any = None) -> AutoregressiveImage:
        """The same distribution with a larger batch shape; nothing is copied or computed."""
        new = self._get_checked_instance(AutoregressiveImage, _instance)
        new.network, new.features = self.network, self.features
        super(AutoregressiveImage, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of images in nats, shape ``broadcast(value's, batch_shape)``.

        What looks at the image alone is computed once for each image of ``value``, however many features there are.

        Args:
            value: ``(..., C, height, width)``.

        Raises:
            ValueError: if validation is on and a number is outside the support.
        """
        if self._validate_args:
            self._validate_sample(value)
        value = self._real(value)
        nats = self.network.given_before(value, self.features).log_prob(value)
        return nats.expand(torch.broadcast_shapes(nats.shape, self.batch_shape))

    def mean_along(self, value: Tensor) -> Tensor:
        """E[x_i | x_<i, f] for each number of images, of whose others only those before it are looked at; one pass.

        Along a draw its expectation is E[x | f]: the picture of a draw with less noise. Along data it is no
        reconstruction of them, for it knows them.

        Args:
            value: ``(..., C, height, width)``.

        Returns:
            ``(..., C, height, width)``, with the batch shape that the value's leading dimensions broadcast to.
        """
        mean = self._real(self.network.given_before(self._real(value), self.features).mean)
        return mean.expand(torch.broadcast_shapes(mean.shape, self.batch_shape + self.event_shape))

    def _real(self, value: Tensor) -> Tensor:
        """Integers as numbers, and halves in full."""
        return value.to(torch.promote_types(value.dtype, torch.float32))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw images, ``(*sample_shape, *batch_shape, C, height, width)``."""
        leading = torch.Size(sample_shape) + self.batch_shape
        batch, size, side = math.prod(leading), self.network.step_size, self.network.side
        features = self.features.expand(*leading, *self.features.shape[-3:]).reshape(batch, *self.features.shape[-3:])
        full = torch.promote_types(features.dtype, torch.float32)  # halves cannot hold all grey levels
        steps, values = self.network.steps(features), features.new_zeros(batch, self.event_shape.numel(), dtype=full)
        for i in range(values.shape[1] // size):
            values[:, i * size : (i + 1) * size] = steps(i, values).sample().flatten(1)
        patches = values.reshape(*leading, *features.shape[-2:], -1)  # (..., rows, columns, C * side * side)
        return images_of(patches, self.event_shape[0], side)
