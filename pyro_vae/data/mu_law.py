"""Mu-law companding: loudness on a logarithmic scale, in 256 levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MU = 255


def compress(wave: Tensor) -> Tensor:
    """F(w) = sgn(w) ln(1 + mu |w|) / ln(1 + mu), mu = 255: ``[-1, 1]`` to ``[-1, 1]``, any shape.

    Source: the continuous law that the segments of ITU-T Recommendation G.711 approximate.
    """
    return wave.sign() * torch.log1p(MU * wave.abs()) / math.log1p(MU)


def expand(compressed: Tensor) -> Tensor:
    """The inverse of :func:`compress`: w = sgn(F) ((1 + mu)^|F| - 1) / mu, any shape."""
    return compressed.sign() * torch.expm1(compressed.abs() * math.log1p(MU)) / MU


def encode(wave: Tensor) -> Tensor:
    """A waveform as levels k = round(255 (F(w) + 1) / 2), uint8; what is beyond full scale is clipped.

    The error is a constant share of the loudness, about 38 dB below it, where 8 linear bits leave quiet sounds few
    levels. No level is silence itself: w = 0 becomes 128, which :func:`decode` makes 8.6e-5 (-81 dB).

    Args:
        wave: floating point in ``[-1, 1]``, any shape.
    """
    return ((compress(wave.clamp(-1, 1)) + 1) * (MU / 2)).round().to(torch.uint8)


def decode(x: Tensor) -> Tensor:
    """The waveform of levels on the scale of grey levels, k / 255 in ``[0, 1]``, also of means between levels.

    Args:
        x: floating point, any shape; what is outside ``[0, 1]`` is clipped.

    Returns:
        in ``[-1, 1]``, the shape of x.
    """
    return expand(2 * x.clamp(0, 1) - 1).clamp(-1, 1)  # a rounding above 1 is no louder
