"""Features of an image at every place of a grid, and grids from latents that lie there."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyro_vae.errors import positive
from pyro_vae.networks.conditions import Condition
from pyro_vae.networks.context_encoder import ContextEncoder, Standardize
from pyro_vae.networks.features import Shape
from pyro_vae.networks.layers import FeatureNorm, apply_batched, check_event_shape
from pyro_vae.networks.layers import activation as make_activation
from pyro_vae.networks.stages import ConvBlocks, PixelOutput


class ContextPlaces(Condition):
    """An image ``(..., C, H, W)`` to a vector for every place of a grid, ``(..., height, width, dim)``.

    A :class:`Condition` with ``places``, so that a prior that is given it is one of a grid of latents, each of which
    looks at what is around its place: what an object does depends on the object, wherever it is.

    Args:
        image_shape: (C, H, W).
        channels: of the features at every scale, finest first, as for :class:`ContextEncoder`; the grid is the last
            one, with the image's sides halved as often as there are scales, and ``dim`` its channels.
        num_blocks: residual blocks at every scale.
        activation: nonlinearity, by name.

    Raises:
        InputError: as :class:`ContextEncoder`.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import ContextPlaces
        >>> features = ContextPlaces((3, 32, 32), channels=(8, 12))
        >>> features.places, features(torch.zeros(5, 3, 32, 32)).shape
        ((8, 8), torch.Size([5, 8, 8, 12]))
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        num_blocks: int = 1,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.encoder = ContextEncoder(image_shape, channels, None, num_blocks, activation)
        self.accepts = self.encoder.accepts
        self.dim, *sides = self.encoder.scales[-1]
        self.places = tuple(sides)
        self.norm = FeatureNorm(self.dim)

    def forward(self, y: Tensor) -> Tensor:
        """The vectors ``(..., height, width, dim)`` of images ``(..., C, H, W)``."""
        return self.norm(self.encoder.grids(y)[-1].movedim(-3, -1))


class PlaceDecoder(nn.Module):
    """Vectors at every place, ``(..., height, width, in_dim)``, to a grid ``(..., *out_shape)`` of the same sides.

    Convolutions over the vectors and the image's features beside them: what lies at one place may say what is around.

    Args:
        in_dim: size of a vector.
        features: shape of the image's features, (channels, height, width).
        out_shape: (channels, height, width).
        num_blocks: residual blocks; each sees two places further.
        activation: nonlinearity, by name.
        batch_norm: normalize inside the blocks.

    Raises:
        InputError: for sizes that are not positive, or an unknown activation.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import PlaceDecoder
        >>> decoder = PlaceDecoder(3, (12, 8, 8), (2, 8, 8))
        >>> decoder(torch.zeros(7, 5, 8, 8, 3), torch.zeros(5, 12, 8, 8)).shape  # 7 particles
        torch.Size([7, 5, 2, 8, 8])
    """

    def __init__(
        self,
        in_dim: int,
        features: Shape,
        out_shape: Sequence[int],
        num_blocks: int = 1,
        activation: str = "relu",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        channels, *sides = features
        self.in_shape = (*sides, positive("in_dim", in_dim))
        self.first = nn.Conv2d(in_dim, channels, 3, padding=1)
        self.join = nn.Conv2d(channels, channels, 1)
        self.blocks = ConvBlocks(channels, positive("num_blocks", num_blocks), activation, batch_norm)
        self.out = PixelOutput(features, tuple(out_shape), activation, finer=1)

    def forward(self, z: Tensor, features: Tensor) -> Tensor:
        """The grid ``(..., *out_shape)`` of vectors and the image's features ``(..., channels, height, width)``.

        Raises:
            InputError: for vectors of another shape.
        """
        check_event_shape(z, self.in_shape, "PlaceDecoder")
        h = apply_batched(self.first, z.movedim(-1, -3), 3) + apply_batched(self.join, features, 3)
        return self.out(apply_batched(self.blocks, h, 3))

    def set_output_bias(self, bias: Tensor) -> None:
        """Set the bias of the output, shape ``out_shape``.

        Raises:
            InputError: if it has another shape.
        """
        self.out.set_output_bias(bias)


class PlaceEncoder(nn.Module):
    """A grid ``(..., C, height, width)``, standardized, to a vector at every place, ``(..., height, width, dim)``.

    Args:
        in_shape: (C, height, width).
        channels: of the features.
        dim: of the vectors.
        num_blocks: residual blocks; each sees two places further.
        activation: nonlinearity, by name.
        batch_norm: normalize inside the blocks.

    Raises:
        InputError: for an unknown activation; when it is used, for a grid of another shape.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import PlaceEncoder
        >>> encoder = PlaceEncoder((5, 8, 8), channels=12, dim=3, num_blocks=1, activation="relu", batch_norm=False)
        >>> encoder(torch.zeros(4, 5, 8, 8)).shape
        torch.Size([4, 8, 8, 3])
    """

    def __init__(
        self, in_shape: Shape, channels: int, dim: int, num_blocks: int, activation: str, batch_norm: bool
    ) -> None:
        super().__init__()
        self.in_shape = in_shape
        self.layers = nn.Sequential(
            Standardize(in_shape[0]),
            nn.Conv2d(in_shape[0], channels, 3, padding=1),
            ConvBlocks(channels, num_blocks, activation, batch_norm),
            make_activation(activation),
            nn.Conv2d(channels, dim, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The vectors of grids."""
        check_event_shape(x, self.in_shape, "PlaceEncoder")
        return apply_batched(self.layers, x, 3).movedim(-3, -1)
