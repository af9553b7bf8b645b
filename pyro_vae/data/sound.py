"""What makes numbers sound: how x is played, and how a recording becomes x."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pyro_vae.data import mu_law
from pyro_vae.data.resample import reach, resample
from pyro_vae.data.wav import read_wav
from pyro_vae.errors import InputError, unknown

Encoding = Literal["linear", "mu_law"]
ENCODINGS = ("linear", "mu_law")
PEAK = 0.9  # of a normalized recording: room for what a model adds
SILENCE = 1e-4  # a peak below this (3 steps of 16 bits) is no sound to make louder
SHORTEST = 16  # samples; fewer are no recording


@dataclass(frozen=True)
class Sound:
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
        if isinstance(self.sample_rate, bool) or not isinstance(self.sample_rate, int) or self.sample_rate < 1:
            raise InputError(f"sample_rate must be a positive integer (Hz), got {self.sample_rate!r}")
        if self.encoding not in ENCODINGS:
            raise unknown("encoding", str(self.encoding), ENCODINGS)

    def encode(self, wave: Tensor) -> Tensor:
        """A waveform as a split stores it: float32 (linear) or uint8 levels (mu_law), of the same shape."""
        return mu_law.encode(wave) if self.encoding == "mu_law" else wave.to(torch.float32)

    def decode(self, x: Tensor) -> Tensor:
        """The waveform of x as it is in a batch, or of a mean of it; of the same shape."""
        return mu_law.decode(x) if self.encoding == "mu_law" else x

    def describe(self, length: int) -> str:
        """One line on recordings of so many samples."""
        scale = "256 mu-law levels in [0, 1]" if self.encoding == "mu_law" else "linear, in [-1, 1]"
        loudness = f"peak {PEAK}" if self.normalized else "as loud as recorded"
        return f"sound of {length / self.sample_rate:.3g} s at {self.sample_rate:,} Hz, {scale}, {loudness}"

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
