"""A folder of WAV files as a dataset."""

from __future__ import annotations

from pathlib import Path

import torch

from pyro_vae.data.dataset import Loaded
from pyro_vae.data.images import SOUNDS, Labelled, class_names, file_names, find_splits, shown
from pyro_vae.data.sound import Encoding, Sound
from pyro_vae.data.split import Parts
from pyro_vae.data.wav import read_header
from pyro_vae.errors import InputError
from pyro_vae.runtime import check_room


def load_sound_folder(
    path: Path, sample_rate: int | None, length: int | None, encoding: Encoding, limit: int | None
) -> Loaded:
    """Load a folder of WAV files, laid out as a folder of images may be (:mod:`pyro_vae.data.images`).

    Channels are mixed to one; recordings are as loud as they are in the files.

    Args:
        path: the folder.
        sample_rate: in Hz, to which others are resampled; needed if the files differ.
        length: samples to which recordings are cut, or padded with silence, at the end; needed if they differ.
        encoding: of x, see :class:`Sound`.
        limit: at most that many files of each split are read.

    Returns:
        ``x`` (N, 1, length), and with class folders ``y`` int64 (N,), the class's place in sorted order; how x is
        played; the files' names, and the classes'.

    Raises:
        CorruptFileError: naming the file, if it is no WAV file or damaged.
        InputError: naming the file or folder, for other layouts and formats, files without samples or too short, and
            for different rates or lengths without sample_rate or length.
    """
    splits = find_splits(path, SOUNDS)
    classes = class_names(splits)
    splits = {part: members[:limit] for part, members in splits.items()}
    if sample_rate is None:
        sample_rate = _common_rate(splits)
    sound = Sound(sample_rate, encoding)
    if length is None:
        length = _common_length(splits, sample_rate)
    check_room(path, sum(map(len, splits.values())) * length * (1 if encoding == "mu_law" else 4), "give a length")
    parts: Parts = {}
    for part, members in splits.items():
        x = torch.empty(len(members), 1, length, dtype=torch.uint8 if encoding == "mu_law" else torch.float32)
        for place, (file, _) in enumerate(members):
            x[place, 0] = sound.encode(sound.read(file, length))
        parts[part] = {"x": x}
        if classes:
            parts[part]["y"] = torch.tensor([classes.index(label) for _, label in members])  # (N,)
    named = {"names": file_names(path, splits), "classes": tuple(map(shown, classes)) or None}
    return Loaded(parts, sound=sound, **named)


def _common_rate(splits: dict[str, Labelled]) -> int:
    first: tuple[Path, int] | None = None
    for members in splits.values():
        for file, _ in members:
            rate = read_header(file).sample_rate
            first = first or (file, rate)
            if rate != first[1]:
                raise InputError(
                    f"{file}: {rate:,} samples a second, but {first[0]} has {first[1]:,}; give sample_rate to resample "
                    "all files to one rate"
                )
    return first[1]


def _common_length(splits: dict[str, Labelled], sample_rate: int) -> int:
    first: tuple[Path, int] | None = None
    for members in splits.values():
        for file, _ in members:
            header = read_header(file)
            length = -(-header.length * sample_rate // header.sample_rate)
            first = first or (file, length)
            if length != first[1]:
                raise InputError(
                    f"{file}: {length:,} samples at {sample_rate:,} Hz, but {first[0]} has {first[1]:,}; give length "
                    "to cut or pad all recordings to one length"
                )
    return first[1]
