"""What makes numbers sound: how x is played, and how a recording becomes x."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pyro_vae.data.dataset import Data, Extra
from pyro_vae.data.split import Split
from pyro_vae.data.wav import read_wav
from pyro_vae.errors import InputError, unknown

MU = 255


def compress(wave: Tensor) -> Tensor:
    """F(w) = sgn(w) ln(1 + mu |w|) / ln(1 + mu), mu = 255: ``[-1, 1]`` to ``[-1, 1]``, any shape.

    Source: the continuous law that the segments of ITU-T Recommendation G.711 approximate.
    """
    return wave.sign() * torch.log1p(MU * wave.abs()) / math.log1p(MU)


def expand(compressed: Tensor) -> Tensor:
    """The inverse of :func:`compress`: w = sgn(F) ((1 + mu)^|F| - 1) / mu, any shape."""
    return compressed.sign() * torch.expm1(compressed.abs() * math.log1p(MU)) / MU


def mu_law_encode(wave: Tensor) -> Tensor:
    """A waveform as levels k = round(255 (F(w) + 1) / 2), uint8; what is beyond full scale is clipped.

    The error is a constant share of the loudness, about 38 dB below it, where 8 linear bits leave quiet sounds few
    levels. No level is silence itself: w = 0 becomes 128, which :func:`decode` makes 8.6e-5 (-81 dB).

    Args:
        wave: floating point in ``[-1, 1]``, any shape.
    """
    return ((compress(wave.clamp(-1, 1)) + 1) * (MU / 2)).round().to(torch.uint8)


def mu_law_decode(x: Tensor) -> Tensor:
    """The waveform of levels on the scale of grey levels, k / 255 in ``[0, 1]``, also of means between levels.

    Args:
        x: floating point, any shape; what is outside ``[0, 1]`` is clipped.

    Returns:
        in ``[-1, 1]``, the shape of x.
    """
    return expand(2 * x.clamp(0, 1) - 1).clamp(-1, 1)  # a rounding above 1 is no louder


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


Encoding = Literal["linear", "mu_law"]
ENCODINGS = ("linear", "mu_law")
PEAK = 0.9  # of a normalized recording: room for what a model adds
SILENCE = 1e-4  # a peak below this (3 steps of 16 bits) is no sound to make louder
SHORTEST = 16  # samples; fewer are no recording


MOST_RATE = 2**31 - 1  # of a 16-bit WAV file, whose header says bytes a second in 32 bits


@dataclass(frozen=True)
class Sound(Extra):
    """How x of shape (1, length) is played.

    Args:
        sample_rate: in Hz.
        encoding: ``"linear"``: x is the waveform, in [-1, 1], for likelihoods of real numbers; ``"mu_law"``: x is one
            of 256 levels k/255 in [0, 1], mu-law companded, for likelihoods of grey levels, whose bits per dimension
            are then those of a lossless code of the 8-bit recording.
        normalized: whether recordings are scaled to a peak of 0.9, so that soft and loud ones weigh the same.

    Raises:
        InputError: for a rate that is not positive, and an unknown encoding.
    """

    sample_rate: int
    encoding: Encoding = "linear"
    normalized: bool = False

    def __post_init__(self) -> None:
        """Check the rate and the encoding."""
        if type(self.sample_rate) is not int or not 1 <= self.sample_rate <= MOST_RATE:
            raise InputError(
                f"sample_rate must be a positive integer (Hz), at most {MOST_RATE:,}, got {str(self.sample_rate)[:80]}"
            )
        if self.encoding not in ENCODINGS:
            raise unknown("encoding", str(self.encoding), ENCODINGS)

    def encode(self, wave: Tensor) -> Tensor:
        """A waveform as a split stores it: float32 (linear) or uint8 levels (mu_law), of the same shape."""
        return mu_law_encode(wave) if self.encoding == "mu_law" else wave.to(torch.float32)

    def decode(self, x: Tensor) -> Tensor:
        """The waveform of x as it is in a batch, or of a mean of it; of the same shape."""
        return mu_law_decode(x) if self.encoding == "mu_law" else x

    def check(self, data: Data) -> None:
        """x has the shape of a recording."""
        shape = data.train.shape
        if len(shape) != 2 or shape[0] != 1:
            raise InputError(f"{data.name}: sound has shape (1, length), but one x has shape {shape}")

    def describe(self, train: Split) -> str:
        """How long the recordings are, and how they are stored."""
        scale = "256 mu-law levels in [0, 1]" if self.encoding == "mu_law" else "linear, in [-1, 1]"
        loudness = f"peak {PEAK}" if self.normalized else "as loud as recorded"
        return f"sound of {train.shape[-1] / self.sample_rate:.3g} s at {self.sample_rate:,} Hz, {scale}, {loudness}"

    def read(self, path: Path, length: int | None = None) -> Tensor:
        """Read a WAV file as the dataset's recordings are: mixed, resampled, cut at the end or padded with silence.

        Args:
            path: the file.
            length: samples; all there are, if None.

        Returns:
            the waveform, float32 ``(length,)``.

        Raises:
            CorruptFileError, InputError: naming the file, see :func:`pyro_vae.data.wav.read_wav`; and if it is too
                short to be a recording (16 samples).
        """
        wave, rate = read_wav(path)
        return self.prepare(wave, rate, length, str(path))

    def prepare(self, wave: Tensor, rate: int, length: int | None, name: str = "recording") -> Tensor:
        """The same for a waveform ``(n,)`` with its sample rate in Hz; ``name`` is what errors call it."""
        if length is not None:  # no more than is needed
            wave = wave[: -(-length * rate // self.sample_rate) + reach(rate, self.sample_rate) + 1]
        try:
            wave = resample(wave, rate, self.sample_rate)[:length]
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        if len(wave) < SHORTEST:
            raise InputError(
                f"{name}: too short, {len(wave)} samples at {self.sample_rate:,} Hz; a recording has {SHORTEST} or more"
            )
        if self.normalized:
            wave = normalized(wave)
        wave = wave.clamp(-1, 1)  # a full-scale recording overshoots a little when resampled
        return wave if length is None else torch.nn.functional.pad(wave, (0, length - len(wave)))


def normalized(wave: Tensor) -> Tensor:
    """A waveform ``(n,)`` scaled to a peak of 0.9; silence stays as quiet as it is.

    The mean is left alone: that of speech comes from its asymmetry, and taking it away would move silence off zero.
    """
    peak = wave.abs().max()
    return wave * (PEAK / peak) if peak > SILENCE else wave
