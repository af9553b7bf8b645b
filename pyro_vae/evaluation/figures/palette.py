"""A colour for every code."""

from __future__ import annotations

import numpy as np

GOLDEN = 0.6180339887498949  # of a turn: hues of neighbouring codes lie far apart, and no two codes' are equal
LIGHTNESS, CHROMA = (0.72, 0.52, 0.87), 0.13


def code_colours(num_codes: int) -> np.ndarray:
    """Colours of codes 0 … K-1: even steps of hue in a space of even perception, and three levels of lightness.

    The numbers of codes are names, so that no two colours are nearer than others for a reason.

    Args:
        num_codes: K.

    Returns:
        sRGB ``(K, 3)`` in [0, 1].

    Source: Ottosson 2020, "A perceptual color space for image processing" (Oklab).
    """
    index = np.arange(num_codes)
    light = np.array(LIGHTNESS)[index % len(LIGHTNESS)]
    angle = 2 * np.pi * ((index * GOLDEN) % 1.0)
    a, b = CHROMA * np.cos(angle), CHROMA * np.sin(angle)
    cones = np.stack(
        [
            light + 0.3963377774 * a + 0.2158037573 * b,
            light - 0.1055613458 * a - 0.0638541728 * b,
            light - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = (to_rgb @ cones**3).clip(0, 1)  # (3, K)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).T
