"""What melodies are like, by numbers: how many notes, in which range and key, by which steps, on which beats."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.music.events import PITCHES, STEPS, Note, canonical, notes_of
from pyro_vae.errors import InputError

MAJOR = (0, 2, 4, 5, 7, 9, 11)
METRICAL = (0, -4, -3, -4, -2, -4, -3, -4, -1, -4, -3, -4, -2, -4, -3, -4)  # weights of the 16 steps of a 4/4 bar


def note_density(tokens: Tensor) -> Tensor:
    """Notes that begin, a bar.

    Args:
        tokens: melodies ``(N, T)``, tokens of :class:`~pyro_vae.data.Melody`, T a multiple of 16.

    Returns:
        float32 ``(N,)``; so too of the other measures.

    Raises:
        InputError: for what are no such tokens; so too of the other measures.

    Example:
        >>> from pyro_vae.data import Melody
        >>> from pyro_vae.evaluation import note_density
        >>> note_density(Melody(bars=1).encode(["C4 - - - E4 - - - G4 - - - - - . ."]))
        tensor([3.])
    """
    events = _events(tokens)
    return torch.from_numpy(((events < PITCHES).sum(-1) / (events.shape[-1] / STEPS)).astype(np.float32))


def pitch_range(tokens: Tensor) -> Tensor:
    """Semitones from the lowest to the highest note; 0 without notes.

    Arguments and result as of :func:`note_density`.
    """
    return _of_notes(tokens, lambda notes: max(n.pitch for n in notes) - min(n.pitch for n in notes))


def in_key(tokens: Tensor) -> Tensor:
    """The share of notes that belong to the major scale which has the most of them; 1 without notes.

    A minor melody belongs to the scale of its relative major. Twelve different pitch classes, one each, have 7/12.
    Arguments and result as of :func:`note_density`.
    """

    def share(notes: list[Note]) -> float:
        classes = np.bincount([note.pitch % 12 for note in notes], minlength=12)
        return max(classes[[(tonic + step) % 12 for step in MAJOR]].sum() for tonic in range(12)) / len(notes)

    return _of_notes(tokens, share, none=1.0)


def mean_interval(tokens: Tensor) -> Tensor:
    """The mean size of the steps from note to note, semitones; 0 for fewer than two notes.

    Arguments and result as of :func:`note_density`.
    """
    return _of_notes(tokens, lambda notes: np.abs(np.diff([note.pitch for note in notes])).mean() if notes[1:] else 0.0)


def syncopation(tokens: Tensor) -> Tensor:
    """How strong the beats are on which no note begins while one is held that began on a weaker step; a bar.

    Of every note that is held over steps of higher metrical weight (of a 4/4 bar: 0 on the first beat, -1 on the third,
    -2 on the second and fourth, -3 on eighths, -4 on sixteenths) the difference to the highest of them counts.
    Arguments and result as of :func:`note_density`.

    Source: Longuet-Higgins and Lee 1984, doi:10.2307/40285271; a rest that follows is not counted here.
    """
    events = _events(tokens)
    bars = events.shape[-1] / STEPS

    def strength(note: Note) -> int:
        weights = [METRICAL[step % STEPS] for step in range(note.start, note.start + note.duration)]
        return max(weights) - weights[0]

    totals = [sum(map(strength, notes_of(row))) for row in events]
    return torch.tensor(totals, dtype=torch.float32) / bars


MEASURES = {  # by name, for tables and attributes
    "notes a bar": note_density,
    "pitch range (semitones)": pitch_range,
    "share of notes in a key": in_key,
    "mean interval (semitones)": mean_interval,
    "syncopation": syncopation,
}


def melody_measures(tokens: Tensor) -> dict[str, Tensor]:
    """All measures of melodies ``(N, T)`` by name, ``(N,)`` each: a sample's beside the data's tell what it is like.

    Raises:
        InputError: for what are no tokens of melodies.
    """
    return {name: measure(tokens) for name, measure in MEASURES.items()}


def _events(tokens: Tensor) -> np.ndarray:
    if tokens.dim() != 2 or tokens.is_floating_point() or tokens.shape[1] % STEPS or not tokens.shape[1]:
        raise InputError(
            f"melodies are tokens (N, T) with {STEPS} steps a bar, got {tokens.dtype} {tuple(tokens.shape)}"
        )
    return canonical(tokens.cpu().numpy() - 1)


def _of_notes(tokens: Tensor, measure: Callable[[list[Note]], float], none: float = 0.0) -> Tensor:
    rows = [notes_of(row) for row in _events(tokens)]
    return torch.tensor([float(measure(notes)) if notes else none for notes in rows], dtype=torch.float32)
