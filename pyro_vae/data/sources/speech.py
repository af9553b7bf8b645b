"""The dataset ``speech``: words spoken by the voices of espeak-ng, made here once."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from pyro_vae.data.dataset import Classes, RawData
from pyro_vae.data.images import cache_folder
from pyro_vae.data.parts import PARTS, SPLIT_SEED
from pyro_vae.data.registry import check_counts, source
from pyro_vae.data.sound import PEAK, Encoding, Sound
from pyro_vae.data.sources.cache_file import find_kept, held, keep
from pyro_vae.errors import InputError
from pyro_vae.runtime import check_room

logger = logging.getLogger(__name__)

BINARY = "espeak-ng"
SPEAKERS = ("m1", "m2", "m3", "m4", "m7", "f1", "f2", "f3", "f4", "f5")  # variants of the voice en-us
WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
)
TAKES = 12  # of every word by every speaker: the last for test, the one before for validation
SPEEDS = tuple(range(140, 205, 5))  # words a minute
PITCHES = tuple(range(30, 75, 5))  # 0 to 99, of which 50 is the voice's own
SAMPLE_RATE, SECONDS, MULTIPLE = 8000, 1.024, 64
FULL_SCALE = 1 << 15


@dataclass(frozen=True)
class Utterance:
    """What espeak-ng is told to say: a speaker and a word by index, the speed (words a minute) and the pitch."""

    speaker: int
    word: int
    speed: int
    pitch: int


@source(
    "speech",
    "20 words by 10 voices of espeak-ng (made here once), 1.024 s at 8 kHz unless sample_rate and length say "
    "otherwise; y is the speaker; 2,000 train / 200 validation / 200 test",
    sound=True,
)
def load_speech(
    root: Path | None, *, sample_rate: int = SAMPLE_RATE, length: int | None = None, encoding: Encoding = "linear"
) -> RawData:
    """Load the spoken words; the first time they are made by espeak-ng (half a minute) and kept in the cache folder.

    Every speaker says every word 12 times, at speeds and pitches drawn for each without repetition: ten of them are for
    training, one for validation, one for test. So the splits have the same words, speakers, and spread of speeds and
    pitches, and no recording is in two. They are fixed: which is which depends on no seed of the user's.

    Args:
        root: a folder in which the made recordings are looked for first, in its sub-folder ``speech``.
        sample_rate: in Hz.
        length: samples; if None, 1.024 seconds, rounded to a multiple of 64.
        encoding: of x, see :class:`Sound`.

    Returns:
        ``x`` (N, 1, length), ``y`` int64 (N,) the speaker, ``word`` int64 (N,), per split; and how x is played. The
        peak of every recording is 0.9.

    Raises:
        InputError: if there are no recordings in the cache and espeak-ng is missing, lacks a voice, or fails.
        CorruptFileError: if the cache file is damaged.
    """
    check_counts(sample_rate=sample_rate, length=length)
    sound = Sound(sample_rate, encoding, normalized=True)
    if length is None:
        length = max(1, round(SECONDS * sound.sample_rate / MULTIPLE)) * MULTIPLE
    script = takes()
    check_room(f"speech: length={length}", len(script) * length * 4, "give a smaller length or sample_rate")
    recipe = json.dumps([PEAK, sound.sample_rate, length, SPEAKERS, WORDS, [list(asdict(u).values()) for u in script]])
    name = Path("speech") / f"speech-{sound.sample_rate}hz-{length}.npz"
    words = find_kept(root, name, lambda path: _held(path, recipe, (len(script), length)))
    if words is None:
        words = _make(cache_folder() / name, script, recipe, sound, length)
    x = sound.encode(torch.from_numpy(words).to(torch.float32).div_(FULL_SCALE)).unsqueeze(1)  # (N, 1, length)
    y, word = (torch.tensor([getattr(u, key) for u in script]) for key in ("speaker", "word"))
    parts = {part: {"x": x[i], "y": y[i], "word": word[i]} for part, i in _split(len(script)).items()}
    return RawData(parts, extras=(sound, Classes(SPEAKERS)))


def takes() -> list[Utterance]:
    """All that is said: TAKES different (speed, pitch) for every speaker and word, in this order."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    script = []
    for speaker in range(len(SPEAKERS)):
        for word in range(len(WORDS)):
            drawn = torch.randperm(len(SPEEDS) * len(PITCHES), generator=generator)[:TAKES].tolist()
            script += [Utterance(speaker, word, SPEEDS[i // len(PITCHES)], PITCHES[i % len(PITCHES)]) for i in drawn]
    return script


def _split(count: int) -> dict[str, torch.Tensor]:
    """Indices by split, each in a fixed random order."""
    take = torch.arange(count) % TAKES
    part = (take >= TAKES - 2).long() + (take == TAKES - 1)  # 0 train, 1 validation, 2 test
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED))
    return {name: order[part[order] == place] for place, name in enumerate(PARTS)}


def _held(path: Path, recipe: str, shape: tuple[int, int]) -> np.ndarray | None:
    """The recordings of a cache file, int16 ``(N, length)``; None if there is none, or it is of other utterances."""

    def read(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        x = arrays["x"]
        if x.dtype != np.int16 or x.shape != shape:
            raise ValueError(f"its array x is {x.shape} of {x.dtype}, not {shape} of int16")
        return x

    return held(path, recipe, read)


def _make(path: Path, script: list[Utterance], recipe: str, sound: Sound, length: int) -> np.ndarray:
    """Let espeak-ng say everything, and keep it; int16 ``(N, length)``."""
    program = _find()
    logger.info("speech: %s says %s words, once; they are kept in %s", BINARY, f"{len(script):,}", path)
    x = np.empty((len(script), length), np.int16)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:

        def record(place: int) -> None:
            file = Path(folder) / f"{place}.wav"
            _say(program, script[place], file)
            wave = sound.read(file, length)
            x[place] = (wave * FULL_SCALE).round().numpy()  # at most 0.9 of full scale
            file.unlink()

        for _ in pool.map(record, range(len(script))):
            pass
    keep(path, recipe, {"x": x})
    return x


def _find() -> str:
    """The program, if it is there and has all the voices: of an unknown variant it would speak with another voice."""
    program = shutil.which(BINARY)
    if program is None:
        raise InputError(
            f"the dataset 'speech' is made with {BINARY}, which is not installed: apt-get install {BINARY} (or "
            "brew, dnf, …), or copy the folder speech of another machine's ~/.cache/pyro_vae here"
        )
    listed = subprocess.run([program, "--voices=variant"], capture_output=True, text=True, check=False).stdout
    missing = [speaker for speaker in SPEAKERS if not re.search(rf"!v/{speaker}\s", listed)]
    if missing:
        raise InputError(f"{program} lacks the voice variants {', '.join(missing)}; install {BINARY} 1.50 or newer")
    return program


def _say(program: str, said: Utterance, file: Path) -> None:
    options = ["-v", f"en-us+{SPEAKERS[said.speaker]}", "-s", str(said.speed), "-p", str(said.pitch)]
    command = [program, *options, "-w", str(file), WORDS[said.word]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not file.is_file():
        raise InputError(f"{' '.join(command)} failed (status {done.returncode}): {done.stderr.strip()[-300:]}")
