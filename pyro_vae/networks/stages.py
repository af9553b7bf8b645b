"""Networks of convolutional hierarchies: an image up to grids of features, and grids of features down to an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from pyro_vae.networks.features import Shape
from pyro_vae.networks.layers import activation as make_activation
from pyro_vae.networks.layers import apply_batched
from pyro_vae.networks.mlp import set_bias_


def by_channels(h: Tensor) -> Tensor:
    """Images with the channels of a pixel side by side in memory, in which convolutions on a CPU are quickest."""
    return h.contiguous(memory_format=torch.channels_last)


class ConvBlocks(nn.Module):
    """h <- h + W_2 f(N_2 W_1 f(N_1 h)), so often as asked, with 3x3 convolutions; W_2 starts near 0.

    Args:
        channels: of h ``(batch, channels, height, width)``.
        num_blocks: how many.
        activation: nonlinearity f, by name.
        batch_norm: normalize by N_1 and N_2, each channel over data, particles and pixels; else they are identities.
        dropout: rate before W_2, in training.
    """

    def __init__(self, channels: int, num_blocks: int, activation: str, batch_norm: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList()
        for _ in range(num_blocks):
            layers: list[nn.Module] = []
            for _ in range(2):
                layers += [nn.BatchNorm2d(channels)] if batch_norm else []
                layers += [make_activation(activation), nn.Conv2d(channels, channels, 3, padding=1)]
            with torch.no_grad():
                layers[-1].weight.mul_(0.1)  # near the identity, so that a deep path is stable at first
            self.blocks.append(nn.Sequential(*layers))

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(batch, channels, height, width)`` to the same shape."""
        for block in cast(Iterable[nn.Sequential], self.blocks):
            *before, last = block
            inner = h
            for layer in before:  # a slice of them would be a module that is made anew at every call
                inner = layer(inner)
            h = h + last(self.dropout(inner))
        return h


class Enlarge(nn.Module):
    """A transposed convolution that doubles the sides, f(h) first, cropped where the finer grid was odd.

    Args:
        before, after: shapes (channels, height, width) of both grids.
        activation: nonlinearity f, by name.
    """

    def __init__(self, before: Shape, after: Shape, activation: str) -> None:
        super().__init__()
        self.size = after[1:]
        self.activation = make_activation(activation)
        self.conv = nn.ConvTranspose2d(before[0], after[0], 4, stride=2, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(batch, *before)`` to ``(batch, *after)``."""
        return self.conv(self.activation(h))[..., : self.size[0], : self.size[1]]


class ScaleEncoder(nn.Module):
    """Features of an image at every scale: blocks, halved, blocks, halved …; ``(..., C, H, W)`` to one grid a scale.

    The image is halved first, by taking 2x2 pixels for one of four times the channels.

    Args:
        data_shape: (C, H, W).
        shapes: of the features (channels, height, width), finest first, each half of the one before (rounded up).
        num_blocks: residual blocks of each scale.
        activation: nonlinearity, by name.
        batch_norm: normalize inside the blocks.
        dropout: rate inside the blocks, in training.
    """

    def __init__(
        self,
        data_shape: Shape,
        shapes: Sequence[Shape],
        num_blocks: int,
        activation: str,
        batch_norm: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.padding = (0, data_shape[2] % 2, 0, data_shape[1] % 2)
        self.first = nn.Conv2d(4 * data_shape[0], shapes[0][0], 3, padding=1)
        self.blocks = nn.ModuleList(
            ConvBlocks(shape[0], num_blocks, activation, batch_norm, dropout) for shape in shapes
        )
        self.halve = nn.ModuleList(
            nn.Sequential(make_activation(activation), nn.Conv2d(fine[0], coarse[0], 3, stride=2, padding=1))
            for fine, coarse in pairwise(shapes)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features ``(..., *shape)`` of images ``(..., C, H, W)``, finest first."""
        leading = x.shape[:-3]
        h = by_channels(pixel_unshuffle(pad(x.flatten(0, -4) if len(leading) > 1 else x, self.padding), 2))
        h, scales = self.first(h), []
        for i, blocks in enumerate(self.blocks):
            h = blocks(self.halve[i - 1](h) if i else h)
            scales.append(h)
        return [h.reshape(*leading, *h.shape[1:]) for h in scales] if len(leading) > 1 else scales


class PixelOutput(nn.Module):
    """Features of a grid to outputs at every pixel; ``(..., *shape)`` to ``(..., *out_shape)``.

    A convolution gives the outputs of finer x finer pixels at once; a bias is learned per channel and pixel.

    Args:
        shape: of the features, (channels, height, width).
        out_shape: (channels, H, W), of ``finer`` times the features' sides, or one pixel less.
        activation: nonlinearity before, by name.
        finer: how many pixels a side there are to a place of the grid.
        kernel: of the convolution, odd.
    """

    def __init__(self, shape: Shape, out_shape: Shape, activation: str, finer: int = 2, kernel: int = 3) -> None:
        super().__init__()
        self.out_shape, self.finer = out_shape, finer
        self.activation = make_activation(activation)
        self.conv = nn.Conv2d(shape[0], finer**2 * out_shape[0], kernel, padding=kernel // 2)
        with torch.no_grad():
            self.conv.weight.mul_(0.1)  # near 0, so that x starts at its mean
        self.bias = nn.Parameter(torch.zeros(out_shape))

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(..., *shape)`` to ``(..., *out_shape)``."""
        return apply_batched(self._outputs, h, 3)

    def _outputs(self, h: Tensor) -> Tensor:
        outputs, (_, height, width) = self.conv(self.activation(h)), self.out_shape
        if self.finer == 1:
            return outputs + by_channels(self.bias[None])  # in the order of memory of what it is added to
        return pixel_shuffle(outputs, self.finer)[..., :height, :width] + self.bias

    def set_output_bias(self, bias: Tensor) -> None:
        """Set the bias, shape ``out_shape``.

        Raises:
            InputError: if it has another shape.
        """
        set_bias_(self.bias, bias, self.out_shape)
