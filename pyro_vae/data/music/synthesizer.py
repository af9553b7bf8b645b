"""A small synthesizer: notes as sound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.music.events import Note

SAMPLE_RATE = 22_050  # Hz
HARMONICS = 12
ATTACK, RELEASE = 0.005, 0.04  # seconds
DECAY = 1.2  # seconds in which the first harmonic falls to 1/e; the h-th in 1/h of it
PEAK = 0.8  # of full scale


def frequency(pitch: int) -> float:
    """Of a MIDI pitch, in Hz: 440 · 2^((pitch - 69) / 12)."""
    return 440.0 * 2.0 ** ((pitch - 69) / 12)


def synthesized(notes: Sequence[Note], num_steps: int, *, tempo: float = 120.0) -> Tensor:
    """Notes as sound: of each, harmonics that decay, the higher the faster, as those of a plucked string.

    A note is the sum over h of sin(2 pi h f t) exp(-h t / 1.2 s) / h^1.5 below half the sample rate.

    Args:
        notes: the melody.
        num_steps: how long the sound is; the last note may ring for 0.04 s longer.
        tempo: quarters a minute; a step is a quarter of a quarter.

    Returns:
        float32 ``(n,)`` at 22,050 Hz, in [-0.8, 0.8]; silence without notes.

    Example:
        >>> from pyro_vae.data.music.events import Note
        >>> from pyro_vae.data.music.synthesizer import synthesized
        >>> synthesized([Note(69, 0, 4)], num_steps=4).shape  # half a second
        torch.Size([11907])
    """
    seconds = 15.0 / tempo  # of a step
    wave = np.zeros(round((num_steps * seconds + RELEASE) * SAMPLE_RATE))
    for note in notes:
        start = round(note.start * seconds * SAMPLE_RATE)
        length = min(round((note.duration * seconds + RELEASE) * SAMPLE_RATE), len(wave) - start)
        wave[start : start + length] += _tone(frequency(note.pitch), length)
    peak = np.abs(wave).max(initial=0.0)
    return torch.from_numpy((wave * (PEAK / peak) if peak > 0 else wave).astype(np.float32))


def _tone(hertz: float, length: int) -> np.ndarray:
    """One note, ``(length,)``, that begins and ends softly."""
    time = np.arange(length) / SAMPLE_RATE
    harmonics = [h for h in range(1, HARMONICS + 1) if h * hertz < SAMPLE_RATE / 2]
    wave = sum(
        (np.sin(2 * np.pi * h * hertz * time) * np.exp(-h * time / DECAY) / h**1.5 for h in harmonics), np.zeros(length)
    )
    return wave * np.minimum(time / ATTACK, 1) * np.minimum((length / SAMPLE_RATE - time) / RELEASE, 1)
