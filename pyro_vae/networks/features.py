"""Networks of BIVA: residual stages between feature shapes, (D,) and (C, H, W), with weight normalization."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.parametrizations import weight_norm

from pyro_vae.errors import InputError
from pyro_vae.networks.layers import apply_batched
from pyro_vae.networks.mlp import MIN_VARIANCE, diagonal_normal, glorot_, set_bias_

Shape = tuple[int, ...]


class FeatureMap(nn.Module):
    """A linear map between features of two shapes, with weight normalization; ``(..., *in)`` to ``(..., *out)``.

    Vectors to vectors: dense. Image features to image features: a convolution, strided where the image shrinks by two,
    after nearest-neighbour enlargement where it grows. Between vectors and images: dense, over all channels and pixels.

    Args:
        before: input shape, (D,) or (C, H, W).
        after: output shape.
        kernel: side of the convolution.
        normalized: with weight normalization.

    Raises:
        InputError: if an image neither keeps its size nor halves (rounding up) nor grows.

    Source: Salimans & Kingma 2016, arXiv:1602.07868 (weight normalization).
    """

    def __init__(self, before: Shape, after: Shape, kernel: int = 3, normalized: bool = True) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.enlarge: tuple[int, int] | None = None
        if len(before) == 3 and len(after) == 3:
            grows = any(a > b for a, b in zip(after[1:], before[1:], strict=True))
            stride = 1 if before[1:] == after[1:] or grows else 2
            halved = tuple(-(-side // stride) for side in before[1:])
            if grows:
                self.enlarge = (after[1], after[2])
            elif halved != after[1:]:
                raise InputError(f"features {before} cannot become {after}: an image keeps its size, halves or grows")
            linear: nn.Module = nn.Conv2d(before[0], after[0], kernel, stride, kernel // 2)
        else:
            linear = nn.Linear(math.prod(before), math.prod(after))
        self.linear = weight_norm(linear.apply(glorot_)) if normalized else linear.apply(glorot_)
        if normalized:  # gains and biases are set from the first batch that is trained on
            self.linear.register_buffer("initialized", torch.tensor(False))

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(..., *before)`` to ``(..., *after)``."""
        return apply_batched(self._map, h, len(self.before))

    def _map(self, h: Tensor) -> Tensor:
        if isinstance(self.linear, nn.Linear):
            return self.linear(h.flatten(1)).reshape(-1, *self.after)
        return self.linear(interpolate(h, size=self.enlarge) if self.enlarge else h)


class GatedResidualBlock(nn.Module):
    r"""h' = s(h) + a * sigmoid(b) with (a, b) = W_2 f(W_1 f(h) + U f(skip)), s the identity or a linear map.

    Args:
        before, after: shapes of h and h'.
        skip: shape of the skip connection's features, or None.
        kernel: side of the convolutions.
        activation: the nonlinearity f.
        dropout: rate before W_2.

    Source: Maaløe et al. 2019, arXiv:1902.02102; Salimans et al. 2017, arXiv:1701.05517 (gated ResNet).
    """

    def __init__(
        self,
        before: Shape,
        after: Shape,
        skip: Shape | None,
        activation: nn.Module,
        kernel: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation, self.event_dim = activation, len(after)
        self.first = FeatureMap(before, after, kernel)
        self.side = FeatureMap(skip, after, kernel) if skip is not None else None
        self.second = FeatureMap(after, (2 * after[0], *after[1:]), kernel)
        self.shortcut = nn.Identity() if before == after else FeatureMap(before, after, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map h ``(..., *before)`` and skip ``(..., *skip)`` to ``(..., *after)``."""
        inner = self.first(self.activation(h))
        if self.side is not None and skip is not None:
            inner = inner + self.side(self.activation(skip))
        value, gate = self.second(self.dropout(self.activation(inner))).chunk(2, -self.event_dim)
        return self.shortcut(h) + value * torch.sigmoid(gate)


class Stage(nn.Module):
    """Gated residual blocks, the first of which changes the shape; each sees the same skip connection.

    Args:
        before, after: shapes of the input and the output.
        skip: shape of the skip connection's features, or None.
        activation: the nonlinearity.
        num_blocks: how many blocks.
        kernels: side of the convolutions of the first block, and of the others.
        dropout: rate inside the blocks.
    """

    def __init__(
        self,
        before: Shape,
        after: Shape,
        skip: Shape | None,
        activation: nn.Module,
        num_blocks: int,
        kernels: tuple[int, int] = (5, 3),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            GatedResidualBlock(
                before if i == 0 else after, after, skip, activation, kernels[0] if i == 0 else kernels[1], dropout
            )
            for i in range(num_blocks)
        )

    def forward(self, h: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map h ``(..., *before)`` to ``(..., *after)``."""
        for block in self.blocks:
            h = block(h, skip)
        return h


class FeatureGaussian(nn.Module):
    """A diagonal Gaussian by a :class:`FeatureMap` of features: ``(..., *shape)`` to N ``(..., dim)``.

    Args:
        shape: of the features.
        dim: dimensions of the Gaussian.
        activation: applied to the features first.
    """

    def __init__(self, shape: Shape, dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.activation, self.linear = activation, FeatureMap(shape, (2 * dim,), normalized=False)

    def forward(self, h: Tensor) -> dist.Normal:
        """The elementwise Gaussian ``(..., dim)`` at h ``(..., *shape)``."""
        return diagonal_normal(self.linear(self.activation(h)), min_variance=MIN_VARIANCE)


class FeatureOutput(nn.Module):
    """Features to decoder outputs ``(..., *out_shape)``, with a learned bias per channel and pixel.

    Args:
        shape: of the features.
        inner: shape between the two linear maps.
        out_shape: shape of one output.
        activation: the nonlinearity.
    """

    def __init__(self, shape: Shape, inner: Shape, out_shape: Shape, activation: nn.Module) -> None:
        super().__init__()
        self.out_shape = out_shape
        self.maps = nn.Sequential(activation, FeatureMap(shape, inner, 5), activation)
        self.last = FeatureMap(inner, out_shape, normalized=False)
        with torch.no_grad():
            self.last.linear.weight.mul_(0.01)  # near 0, so that x starts at its mean
        self.bias = nn.Parameter(torch.zeros(out_shape))

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(..., *shape)`` to ``(..., *out_shape)``."""
        return self.last(self.maps(h)) + self.bias

    def set_output_bias(self, bias: Tensor) -> None:
        """Set the bias, shape ``out_shape``.

        Raises:
            InputError: if it has another shape.
        """
        set_bias_(self.bias, bias, self.out_shape)
