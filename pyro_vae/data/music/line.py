"""A melody as it was read: notes in fractions of a whole note, brought to the grid of sixteenths."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pyro_vae.data.music.events import STEPS, Note, events_of
from pyro_vae.errors import InputError

MOST_BARS = 4096  # of a piece: hours
METRES = {(4, 4): 1, (2, 2): 1, (2, 4): 2}  # those that are taken, and what their note values are multiplied by


@dataclass(frozen=True)
class Sounding:
    """A note: its pitch (of MIDI), and from when to when it sounds, in whole notes from the beginning of a bar."""

    pitch: int
    start: Fraction
    end: Fraction


@dataclass(frozen=True)
class Line:
    """Notes of one voice or of several, with what is needed to write them as steps.

    Args:
        name: of the file or tune, for errors.
        metre: e.g. (4, 4); None if it changes or there is none.
        notes: they may overlap. Times count from the beginning of a bar: before an upbeat there is rest.
        end: of all, in whole notes: rests behind the last note are before it.
    """

    name: str
    metre: tuple[int, int] | None
    notes: tuple[Sounding, ...]
    end: Fraction

    def events(self) -> np.ndarray:
        """Events of whole bars, ``(bars * 16,)``, with 16 steps a bar: sixteenths of 4/4 and of 2/2.

        Of 2/4 all values are doubled, so that a bar stays a bar: tunes are noted in either way. Every note begins at
        the step nearest to it, and ends at the one nearest to its end, or where the next begins. Of notes that begin
        at one step, the one that began nearest to it is kept (of two as near the first), and the highest of those that
        began together: a chord becomes its highest note, and fast figures lose notes.

        Raises:
            InputError: for another metre, no notes, and a piece of more than 4,096 bars.
        """
        if self.metre not in METRES:
            known = ", ".join(f"{a}/{b}" for a, b in METRES)
            has = "has a metre that changes, or none" if self.metre is None else "is in {}/{}".format(*self.metre)
            raise InputError(f"{self.name}: {has}; melodies have 16 steps a bar, of {known}")
        if not self.notes:
            raise InputError(f"{self.name}: no notes")
        scale = STEPS * METRES[self.metre]
        bars = math.ceil(self.end * scale / STEPS)
        if bars > MOST_BARS:
            raise InputError(f"{self.name}: {bars:,} bars; {MOST_BARS:,} are the most")
        return events_of(_one_at_a_time(self.notes, scale, bars * STEPS), bars * STEPS)


def _one_at_a_time(notes: Iterable[Sounding], scale: int, num_steps: int) -> list[Note]:
    """At most one note a step, each cut where the next begins."""
    best: dict[int, tuple[tuple[Fraction, Fraction, int], Sounding]] = {}
    for note in notes:
        start = _nearest(note.start * scale)
        if start < num_steps:
            rank = (abs(note.start * scale - start), note.start, -note.pitch)
            if start not in best or rank < best[start][0]:
                best[start] = rank, note
    kept: list[Note] = []
    starts = sorted(best)
    for start, following in zip(starts, [*starts[1:], num_steps], strict=True):
        note = best[start][1]
        end = min(following, max(start + 1, _nearest(note.end * scale)))
        kept.append(Note(note.pitch, start, end - start))
    return kept


def _nearest(value: Fraction) -> int:
    """The nearest integer, the upper one of two."""
    return math.floor(value + Fraction(1, 2))
