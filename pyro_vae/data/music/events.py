"""Melodies as events, one a step: a note begins, it is held, or there is rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pyro_vae.errors import InputError

PITCHES = 128  # of MIDI; 60 is the middle C, 69 is A at 440 Hz
HOLD, REST = 128, 129  # events after the 128 that begin a note
NUM_EVENTS = 130
STEPS = 16  # a bar: sixteenths of 4/4


class Note(NamedTuple):
    """A note of a melody: its pitch (of MIDI), the step at which it begins, and how many steps it lasts."""

    pitch: int
    start: int
    duration: int


def events_of(notes: Iterable[Note], num_steps: int) -> np.ndarray:
    """Notes as events, ``(num_steps,)`` int64: a pitch where a note begins, hold while it lasts, else rest.

    Args:
        notes: one at a time: none may begin before the one before it ends.
        num_steps: T; no note may end later.

    Raises:
        InputError: for notes that overlap, do not fit, or have a pitch outside 0 … 127.
    """
    notes = sorted(notes, key=lambda note: note.start)
    events = np.full(num_steps, REST)
    for note in notes:
        if not 0 <= note.pitch < PITCHES:
            raise InputError(f"a note's pitch must be an integer from 0 to {PITCHES - 1}, got {note.pitch}")
        if note.duration < 1 or note.start < 0 or note.start + note.duration > num_steps:
            raise InputError(
                f"a note from step {note.start}, {note.duration} steps long, does not fit {num_steps} steps"
            )
    for note, following in pairwise(notes):
        if note.start + note.duration > following.start:
            raise InputError(f"notes overlap at step {following.start}: a melody has one note at a time")
    for note in notes:
        events[note.start] = note.pitch
        events[note.start + 1 : note.start + note.duration] = HOLD
    return events


def notes_of(events: Sequence[int] | np.ndarray) -> list[Note]:
    """The notes that events ``(T,)`` say, in order; a hold where no note sounds is rest."""
    notes: list[Note] = []
    for step, event in enumerate(np.asarray(canonical(events)).tolist()):
        if event < PITCHES:
            notes.append(Note(event, step, 1))
        elif event == HOLD:
            notes[-1] = notes[-1]._replace(duration=notes[-1].duration + 1)
    return notes


def canonical(events: Sequence[int] | np.ndarray) -> np.ndarray:
    """Events ``(..., T)`` in the one way in which their notes are written: a hold where no note sounds becomes rest.

    Those are holds at the first step, and after a rest (or after such a hold).

    Raises:
        InputError: for events outside 0 … 129.
    """
    events = np.array(events, dtype=np.int64)
    if events.size and not 0 <= events.min() <= events.max() < NUM_EVENTS:
        raise InputError(f"events must be integers from 0 to {NUM_EVENTS - 1}, got {events.min()} to {events.max()}")
    steps = np.arange(events.shape[-1])
    last = np.maximum.accumulate(np.where(events == HOLD, -1, steps), axis=-1)  # at or before each step: no hold
    before = np.take_along_axis(events, last.clip(min=0), -1) if events.size else events
    return np.where((last < 0) | (before == REST), REST, events)


def transposed(events: np.ndarray, semitones: int) -> np.ndarray:
    """Events with all pitches moved by so many semitones.

    Raises:
        InputError: if a pitch would leave 0 … 127.
    """
    begins = events < PITCHES
    moved = np.where(begins, events + semitones, events)
    if begins.any() and not 0 <= moved[begins].min() <= moved[begins].max() < PITCHES:
        raise InputError(f"transposed by {semitones}, a pitch is outside 0 … {PITCHES - 1}")
    return moved
