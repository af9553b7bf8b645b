"""The cosine transform of trajectories over time, orthonormal."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError, positive
from pyro_vae.networks.layers import check_event_shape


class CosineTransform(nn.Module):
    r"""Trajectories ``(..., 2 T, h, w)`` to their first coefficients ``(..., 2 c, h, w)``, of both axes one by one.

    .. math:: y_k = \sqrt{\frac{2 - [k = 0]}{T}} \sum_{t=0}^{T-1} x_t \cos\frac{\pi k (t + 1/2)}{T}, \quad k < c

    (DCT-II). With all T coefficients it is a rotation, \|det\| = 1: a density of y is one of x. With fewer it is the
    projection on smooth motions, and a density of y is none of x.

    Args:
        frames: T.
        coefficients: c; all T if not given.

    Attributes:
        matrix: orthonormal rows, ``(2 c, 2 T)``.

    Raises:
        InputError: for numbers that are not positive, or more coefficients than frames.

    Source: Ahmed et al. 1974, "Discrete cosine transform", IEEE Trans. Computers C-23; of trajectories: Walker et al.
    2016, arXiv:1606.07873.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import CosineTransform
        >>> transform, x = CosineTransform(frames=10), torch.randn(5, 20, 8, 8)
        >>> torch.allclose(transform.inverse(transform(x)), x, atol=1e-5)
        True
        >>> CosineTransform(frames=10, coefficients=4)(x).shape
        torch.Size([5, 8, 8, 8])
    """

    matrix: Tensor

    def __init__(self, frames: int, coefficients: int | None = None) -> None:
        super().__init__()
        self.frames = positive("frames", frames)
        self.coefficients = self.frames if coefficients is None else positive("coefficients", coefficients)
        if self.coefficients > self.frames:
            raise InputError(f"coefficients: {self.frames} frames have so many at most, got {self.coefficients}")
        k = torch.arange(self.coefficients, dtype=torch.float64)[:, None]
        rows = torch.cos(math.pi * k * (torch.arange(self.frames) + 0.5) / self.frames) * math.sqrt(2 / self.frames)
        rows[0] /= math.sqrt(2)
        self.register_buffer("matrix", torch.block_diag(rows, rows).float(), persistent=False)

    @property
    def complete(self) -> bool:
        """Whether nothing is left out."""
        return self.coefficients == self.frames

    def forward(self, x: Tensor) -> Tensor:
        """Coefficients ``(..., 2 c, h, w)`` of trajectories ``(..., 2 T, h, w)``.

        Raises:
            InputError: for trajectories of another number of frames.
        """
        check_event_shape(x, (2 * self.frames, *x.shape[-2:]), "CosineTransform")
        return torch.einsum("ct,...thw->...chw", self.matrix, x)

    def inverse(self, y: Tensor) -> Tensor:
        """Trajectories ``(..., 2 T, h, w)`` of coefficients ``(..., 2 c, h, w)``, those left out being 0."""
        return torch.einsum("ct,...chw->...thw", self.matrix, y)
