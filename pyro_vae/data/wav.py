"""WAV files: PCM in, 16-bit PCM out."""

from __future__ import annotations

import logging
import os
import struct
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_atomically

logger = logging.getLogger(__name__)

FULL_SCALE = 1 << 15  # of 16 bits
PCM, EXTENSIBLE = 1, 0xFFFE  # formats; an extensible one says in the first two bytes of a GUID what it is
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # the rest of it, for all formats that have a number
MOST_HERTZ = 1_000_000  # no recorder is faster, and a filter from there is out of all proportion


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
    """The header, and the bytes of at most so many samples; nothing is allocated by what a header says."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            form, start, declared = _chunks(file, size, path)
            header = _header(form, declared, path)
            frame = header.channels * header.width
            if declared > size - start:
                raise CorruptFileError(
                    f"{path}: ends before the {header.length:,} samples that its header says; get it again"
                )
            file.seek(start)
            wanted = header.length if most is None else min(most, header.length)
            content = file.read(wanted * frame)
    except OSError as error:
        raise CorruptFileError(f"{path}: not a readable WAV file ({error}); replace or remove it") from error
    return header, content


def _chunks(file: BinaryIO, size: int, path: Path) -> tuple[bytes, int, int]:
    """The chunk ``fmt``, and where the chunk ``data`` begins and how long it says it is."""

    def damaged(what: str) -> CorruptFileError:
        return CorruptFileError(f"{path}: not a readable WAV file ({what}); replace or remove it")

    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise damaged(f"it begins with {head[:4]!r}, expected RIFF and WAVE" if head else "it is empty")
    form: bytes | None = None
    place = len(head)
    while place + 8 <= size:
        file.seek(place)
        name, length = struct.unpack("<4sI", file.read(8))
        place += 8
        if name == b"data":
            if form is None:
                raise damaged("its samples come before their format")
            return form, place, length
        if name == b"fmt ":
            form = file.read(min(length, 40))
        place += length + length % 2  # chunks begin at even places
    raise damaged("it ends too early, without samples")


def _header(form: bytes, size: int, path: Path) -> Header:
    """What the chunk ``fmt`` says of so many bytes of samples."""
    if len(form) < 16:
        raise CorruptFileError(f"{path}: not a readable WAV file (its format ends too early); replace or remove it")
    kind, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", form)
    if kind == EXTENSIBLE and len(form) == 40 and form[26:] == GUID_TAIL:
        kind = int.from_bytes(form[24:26], "little")
    if kind != PCM:  # others are compressed or floating point
        raise InputError(
            f"{path}: a WAV file, but not plain PCM (format {kind:#x}); save it as 16-bit PCM, uncompressed"
        )
    width = -(-bits // 8)
    if not 1 <= rate <= MOST_HERTZ or not 1 <= width <= 4 or channels < 1 or block != channels * width:
        raise CorruptFileError(
            f"{path}: its header says {rate} samples a second of {bits} bits, {channels} channels in {block} bytes; "
            "get it again"
        )
    if size < block:
        raise InputError(f"{path}: holds no samples; remove it")
    return Header(rate, channels, width, size // block)
