"""WAV files: PCM in, 16-bit PCM out."""

from __future__ import annotations

import logging
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_atomically

logger = logging.getLogger(__name__)
FULL_SCALE = 1 << 15  # of 16 bits
DAMAGE = (OSError, EOFError, RuntimeError)


@dataclass(frozen=True)
class Header:
    """What a WAV file says of itself: samples a second, channels, bytes a sample, and samples per channel."""

    sample_rate: int
    channels: int
    width: int
    length: int


def read_header(path: Path) -> Header:
    """Read the header of a WAV file.

    Raises:
        CorruptFileError: naming the file, if it is no WAV file or damaged.
        InputError: naming the file, if it is not plain PCM, or holds no samples.
    """
    return _read(path, 0)[0]


def read_wav(path: Path, most: int | None = None) -> tuple[Tensor, int]:
    """Read a WAV file of 8, 16, 24 or 32-bit PCM; channels are mixed to one, their mean.

    Args:
        path: the file.
        most: at most so many samples, the first ones.

    Returns:
        float32 ``(n,)`` in [-1, 1), and the sample rate in Hz.

    Raises:
        CorruptFileError: naming the file, if it is no WAV file, damaged, or shorter than its header says.
        InputError: naming the file, if it is not plain PCM, or holds no samples.
    """
    header, content = _read(path, most)
    raw = np.frombuffer(content, np.uint8).reshape(-1, header.channels, header.width)
    if header.width == 1:  # the only unsigned one
        samples = (raw[..., 0].astype(np.float32) - 128) / 128
    else:
        words = np.zeros((*raw.shape[:2], 4), np.uint8)
        words[..., 4 - header.width :] = raw  # at the upper end of 32 bits, little-endian
        samples = (words.view("<i4")[..., 0] / 2.0**31).astype(np.float32)
    return torch.from_numpy(samples.mean(1)), header.sample_rate


def write_wav(path: str | Path, samples: Tensor, sample_rate: int) -> int:
    """Write a WAV file, 16-bit PCM, one channel, whole or not at all: round(32768 w), the inverse of reading it.

    Args:
        path: the file; its folder is made if need be.
        samples: ``(n,)`` floating point; what is outside [-1, 1] is clipped.
        sample_rate: in Hz.

    Returns:
        how many samples were clipped.

    Raises:
        InputError: for NaN or infinite samples, and if the file cannot be written.
    """
    samples = samples.detach().cpu().double()
    if samples.dim() != 1 or not bool(samples.isfinite().all()):
        what = "NaN or infinite samples" if samples.dim() == 1 else f"shape {tuple(samples.shape)}, expected (n,)"
        raise InputError(f"cannot write {path} as sound: {what}")
    words = (samples * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1).numpy().astype("<i2")

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream, wave.open(stream, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(sample_rate)
            file.writeframes(words.tobytes())

    write_atomically(path, write)
    return int((samples.abs() > 1).sum())


def write_wavs(folder: str | Path, waves: Mapping[str, Tensor], sample_rate: int) -> list[Path]:
    """Write ``<name>.wav`` into a folder for every name; the log says in one line what was clipped.

    Args:
        folder: where to.
        waves: ``(n,)`` by name.
        sample_rate: in Hz.

    Returns:
        the files.

    Raises:
        InputError: see :func:`write_wav`.
    """
    paths = {name: Path(folder) / f"{name}.wav" for name in waves}
    clipped = {name: write_wav(path, waves[name], sample_rate) for name, path in paths.items()}
    loud = [f"{name}.wav ({count:,} samples)" for name, count in clipped.items() if count]
    if loud:
        shown = ", ".join(loud[:5]) + (", …" if len(loud) > 5 else "")
        logger.warning("%s: %d of %d recordings clipped at full scale: %s", folder, len(loud), len(waves), shown)
    return list(paths.values())


def _read(path: Path, most: int | None) -> tuple[Header, bytes]:
    try:
        with path.open("rb") as stream, wave.open(stream, "rb") as file:
            told = file.getparams()
            wanted = told.nframes if most is None else min(most, told.nframes)
            content = file.readframes(wanted)
    except wave.Error as error:
        if "unknown" in str(error):  # format 1 is PCM; others are compressed or floating point
            raise InputError(
                f"{path}: a WAV file, but not plain PCM ({error}); save it as 16-bit PCM, uncompressed"
            ) from error
        raise CorruptFileError(f"{path}: not a readable WAV file ({error}); replace or remove it") from error
    except DAMAGE as error:
        raise CorruptFileError(
            f"{path}: not a readable WAV file ({error or 'it ends too early'}); replace or remove it"
        ) from error
    if told.framerate < 1 or not 1 <= told.sampwidth <= 4:
        raise CorruptFileError(
            f"{path}: its header says {told.framerate} samples a second of {told.sampwidth} bytes; get it again"
        )
    if told.nframes == 0:
        raise InputError(f"{path}: holds no samples; remove it")
    if len(content) != wanted * told.nchannels * told.sampwidth:
        raise CorruptFileError(f"{path}: ends before the {told.nframes:,} samples that its header says; get it again")
    return Header(told.framerate, told.nchannels, told.sampwidth, told.nframes), content
