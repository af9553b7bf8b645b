"""Another sample rate, without aliases."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from pyro_vae.errors import InputError

ZERO_CROSSINGS = 64  # of the sinc, on each side
CUTOFF = 0.96  # of the lower Nyquist frequency: from 0.92 of it the filter falls, at 1 it is down
BETA = 7.857  # Kaiser window: the stop band is 80 dB down
CHUNK_ELEMENTS = 1 << 22
MOST_FILTER, MOST_SAMPLES = 1 << 26, 1 << 31  # numbers in a filter, and in a recording


def resample(wave: Tensor, old: int, new: int) -> Tensor:
    """Band-limited interpolation: y[i] = sum_k w[k] h(i old/new - k), h a sinc under a Kaiser window.

    Frequencies up to 0.92 of the lower one of the two Nyquist frequencies pass, those above it are taken away (80 dB).
    Outside the recording there is silence. Any two rates; memory is bounded.

    Args:
        wave: ``(..., n)`` floating point.
        old, new: samples a second, before and after.

    Returns:
        ``(..., ceil(n new / old))``; wave itself if the rates are equal.

    Raises:
        InputError: for rates so different, or with so small a common divisor, that the filter or the result would fill
            the memory.

    Source: Smith, "Digital Audio Resampling" (CCRMA); window: Kaiser 1974.
    """
    if old == new:
        return wave
    size = new // math.gcd(old, new) * 2 * reach(old, new)
    if size > MOST_FILTER or wave.numel() * new > MOST_SAMPLES * old:
        raise InputError(
            f"recordings of {old:,} samples a second cannot be resampled to {new:,} in reasonable memory; choose a "
            "sample_rate nearer to theirs, or resample the files first"
        )
    table = _filters(old, new).to(wave)  # (phases, taps)
    phases, taps = table.shape
    divisor = math.gcd(old, new)
    up, down = new // divisor, old // divisor
    padded = torch.nn.functional.pad(wave, (taps // 2 - 1, taps // 2 + 1))
    count = -(-wave.shape[-1] * up // down)
    result = wave.new_empty(*wave.shape[:-1], count)
    step = max(1, CHUNK_ELEMENTS // (taps * max(1, wave[..., 0].numel())))
    for i in torch.arange(count, device=wave.device).split(step):
        first = (i * down).div(up, rounding_mode="floor")  # (chunk,)
        windows = padded[..., first[:, None] + torch.arange(taps, device=wave.device)]  # (..., chunk, taps)
        result[..., i] = (windows * table[i % phases]).sum(-1)
    return result


def reach(old: int, new: int) -> int:
    """How many samples of the old rate on each side a sample of the new one is made of."""
    return math.ceil(ZERO_CROSSINGS / (CUTOFF * min(1.0, new / old)))


@lru_cache(maxsize=8)
def _filters(old: int, new: int) -> Tensor:
    """h at the distances from an output sample to the inputs around it, one row per phase: ``(up, 2 reach)``."""
    divisor = math.gcd(old, new)
    up, down = new // divisor, old // divisor
    cutoff, width = CUTOFF * min(1.0, new / old), reach(old, new)
    fraction = (torch.arange(up) * down % up).double() / up  # where the output is between two inputs
    distance = fraction[:, None] - torch.arange(1 - width, width + 1)  # (up, 2 width)
    window = torch.special.i0(BETA * (1 - (distance / width) ** 2).clamp(min=0).sqrt())
    weights = torch.sinc(cutoff * distance) * window
    return weights / weights.sum(1, keepdim=True)  # a constant stays what it is
