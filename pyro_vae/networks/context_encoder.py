"""Features of an image that a model is given: a vector, and a grid at every scale, which a decoder looks at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.errors import InputError, positive
from pyro_vae.networks.conditions import Condition
from pyro_vae.networks.conv import halved_sizes
from pyro_vae.networks.features import Shape
from pyro_vae.networks.layers import FeatureNorm, apply_batched, check_event_shape
from pyro_vae.networks.layers import activation as make_activation
from pyro_vae.networks.stages import ConvBlocks, Enlarge, PixelOutput, ScaleEncoder
from pyro_vae.programs.context import Context


MIN_DEVIATION = 1e-3  # of a channel: one that hardly varies over data is not blown up


class Standardize(nn.Module):
    """(image - mean) / deviation, each channel, by moments of the first training data, which ``fit`` shows it.

    Where images differ little from one another, as grey shapes on a bright ground, all that they have in common would
    drown what tells them apart. Before ``fit``, and in a loop of one's own that does not call :meth:`initialize`, images
    stay as they are.

    Args:
        channels: of the images.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import Standardize
        >>> standardize = Standardize(1)
        >>> images = 0.7 + 0.03 * torch.randn(50, 1, 8, 8)
        >>> standardize.initialize(images)
        >>> round(standardize(images).std().item(), 2)
        1.0
    """

    mean: Tensor
    deviation: Tensor
    initialized: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(False))

    def initialize(self, image: Tensor) -> None:
        """Take mean and deviation of images ``(..., C, H, W)``, over data and pixels."""
        by_channel = image.detach().movedim(-3, 0).flatten(1)  # (C, everything else)
        self.mean.copy_(by_channel.mean(1).view_as(self.mean))
        self.deviation.copy_(by_channel.std(1, correction=0).clamp(min=MIN_DEVIATION).view_as(self.deviation))
        self.initialized.fill_(True)

    def forward(self, image: Tensor) -> Tensor:
        """Images ``(..., C, H, W)``, standardized."""
        return (image - self.mean) / self.deviation


class ContextEncoder(Condition):
    """An image ``(..., C, H, W)`` to a vector ``(..., dim)``, and to a grid of features at every scale.

    It is a :class:`Condition`, so that whatever takes one can be given an image: priors, guides, models, whose context
    are then images from 0 to 1. They are standardized first (:class:`Standardize`). The grids are for
    :class:`SkipDecoder`.

    Args:
        image_shape: (C, H, W).
        channels: of the features at every scale, finest first; the first has half the image's sides, each further one
            half of the sides before (rounding up).
        dim: of the vector; None: there is none, only grids.
        num_blocks: residual blocks at every scale.
        activation: nonlinearity, by name.
        batch_norm: normalize inside the blocks, each channel over data and pixels.
        normalized: each entry of the vector has mean 0 and variance 1 over data, then a gain and a bias: what all
            images have in common, however large it is beside that in which they differ, saturates no network behind it.
            False: the activation is applied instead.

    Attributes:
        scales: shapes of the grids, (channels, height, width), finest first.

    Raises:
        InputError: for a shape that is no image's, or too small for so many scales; sizes that are not positive; an
            unknown activation.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import ContextEncoder
        >>> encoder = ContextEncoder((1, 16, 16), channels=(8, 12), dim=10)
        >>> grey = torch.zeros(5, 1, 16, 16)
        >>> encoder(grey).shape, [tuple(grid.shape) for grid in encoder.grids(grey)]
        (torch.Size([5, 10]), [(5, 8, 8, 8), (5, 12, 4, 4)])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int] = (32, 64, 128),
        dim: int | None = 128,
        num_blocks: int = 1,
        activation: str = "relu",
        batch_norm: bool = False,
        normalized: bool = True,
    ) -> None:
        super().__init__()
        self.image_shape, self.dim = tuple(image_shape), 0 if dim is None else positive("dim", dim)
        if not channels or min(channels) < 1:
            raise InputError(f"channels must be positive, one number a scale, finest first; got {list(channels)}")
        positive("num_blocks", num_blocks)
        sizes = halved_sizes(self.image_shape, len(channels), "ContextEncoder")[1:]
        self.scales: list[Shape] = [(width, *size) for width, size in zip(channels, sizes, strict=True)]
        self.accepts = Context("images, from 0 to 1", self.image_shape, support=constraints.unit_interval)
        self.standardize = Standardize(self.image_shape[0])
        self.features = ScaleEncoder(self.image_shape, self.scales, num_blocks, activation, batch_norm)
        self.head = None
        if dim is not None:
            last = FeatureNorm(dim) if normalized else make_activation(activation)
            linear = nn.Linear(math.prod(self.scales[-1]), dim)
            self.head = nn.Sequential(make_activation(activation), nn.Flatten(-3), linear, last)

    def grids(self, image: Tensor) -> list[Tensor]:
        """Features ``(..., *scale)`` of images ``(..., C, H, W)`` at every scale, finest first.

        Raises:
            InputError: for images of another shape.
        """
        check_event_shape(image, self.image_shape, "ContextEncoder")
        return self.features(self.standardize(image))

    def vector(self, grids: Sequence[Tensor]) -> Tensor:
        """The vector ``(..., dim)`` of what :meth:`grids` gave.

        Raises:
            InputError: if there is none.
        """
        if self.head is None:
            raise InputError("this ContextEncoder has grids only: say dim, the size of its vector")
        return self.head(grids[-1])

    def forward(self, y: Tensor) -> Tensor:
        """The vector ``(..., dim)`` of images ``(..., C, H, W)``."""
        return self.vector(self.grids(y))


class SkipDecoder(nn.Module):
    """A vector ``(..., in_dim)`` to a grid ``(..., *out_shape)``, which sees features of an image at every scale.

    The vector is laid over the coarsest grid, joined with the image's features there, enlarged, joined with those of
    the next scale, and so on. What is made of the image is computed once a datum, not once a particle.

    Args:
        in_dim: size of the vector.
        scales: shapes of the image's features, finest first, as :attr:`ContextEncoder.scales`.
        out_shape: (channels, H, W): of the sides of one of the scales, or twice those of the finest, the image's own.
        num_blocks: residual blocks at every scale.
        activation: nonlinearity, by name.
        batch_norm: normalize inside the blocks, each channel over data, particles and pixels.

    Raises:
        InputError: for an out_shape of other sides; sizes that are not positive; an unknown activation.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import ContextEncoder, SkipDecoder
        >>> encoder = ContextEncoder((1, 16, 16), channels=(8, 12), dim=10)
        >>> decoder = SkipDecoder(3, encoder.scales, (2, 16, 16))
        >>> decoder(torch.zeros(7, 5, 3), encoder.grids(torch.zeros(5, 1, 16, 16))).shape  # 7 particles
        torch.Size([7, 5, 2, 16, 16])
    """

    def __init__(
        self,
        in_dim: int,
        scales: Sequence[Shape],
        out_shape: Sequence[int],
        num_blocks: int = 1,
        activation: str = "relu",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_dim, self.out_shape = positive("in_dim", in_dim), tuple(out_shape)
        positive("num_blocks", num_blocks)
        sides = [scale[1:] for scale in scales]
        whole = tuple((side + 1) // 2 for side in self.out_shape[1:]) == sides[0]
        if not whole and (len(self.out_shape) != 3 or self.out_shape[1:] not in sides):
            raise InputError(
                f"SkipDecoder: out_shape must be (channels, H, W) with the sides of a scale, {sides}, or twice those "
                f"of the finest; got {self.out_shape}"
            )
        last = 0 if whole else sides.index(self.out_shape[1:])
        self.scales = list(scales[last:])  # those it passes through, finest first
        self.skipped = last
        self.first = nn.Linear(in_dim, math.prod(self.scales[-1]))
        self.join = nn.ModuleList(nn.Conv2d(scale[0], scale[0], 1) for scale in self.scales)
        self.blocks = nn.ModuleList(ConvBlocks(s[0], num_blocks, activation, batch_norm) for s in self.scales)
        self.enlarge = nn.ModuleList(
            Enlarge(coarse, fine, activation) for fine, coarse in zip(self.scales, self.scales[1:], strict=False)
        )
        self.out = PixelOutput(self.scales[0], self.out_shape, activation, finer=2 if whole else 1)

    def forward(self, z: Tensor, grids: Sequence[Tensor]) -> Tensor:
        """The grid ``(..., *out_shape)`` of vectors ``(..., in_dim)`` and the image's features ``(..., *scale)``.

        Raises:
            InputError: for vectors of another size.
        """
        check_event_shape(z, (self.in_dim,), "SkipDecoder")
        h = self.first(z).unflatten(-1, self.scales[-1])  # (..., *coarsest)
        for i in range(len(self.scales) - 1, -1, -1):
            h = h + apply_batched(self.join[i], grids[self.skipped + i], 3)  # (..., *scales[i])
            h = apply_batched(self.blocks[i], h, 3)
            if i > 0:
                h = apply_batched(self.enlarge[i - 1], h, 3)
        return self.out(h)

    def set_output_bias(self, bias: Tensor) -> None:
        """Set the bias of the output, shape ``out_shape``.

        Raises:
            InputError: if it has another shape.
        """
        self.out.set_output_bias(bias)
