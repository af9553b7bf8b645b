"""Melodies as tokens: one voice, sixteen steps a bar."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.music.abc_notation import read_abc, read_tune, title_of
from pyro_vae.data.music.events import HOLD, NUM_EVENTS, PITCHES, REST, STEPS, canonical, notes_of
from pyro_vae.data.music.line import MOST_BARS, Line
from pyro_vae.data.music.midi import read_midi, write_midi
from pyro_vae.data.music.music_xml import read_music_xml
from pyro_vae.data.music.synthesizer import SAMPLE_RATE, synthesized
from pyro_vae.data.split import Split
from pyro_vae.data.tokens import Tokens
from pyro_vae.data.wav import write_wav
from pyro_vae.errors import InputError, positive

logger = logging.getLogger(__name__)

READERS = {".mid": read_midi, ".midi": read_midi, ".mxl": read_music_xml, ".musicxml": read_music_xml}
SUFFIXES = (*READERS, ".abc")
NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
HELD, SILENT, BAR = "-", ".", "|"  # in a melody that is written as text
SLOWEST, FASTEST = 10, 1000  # quarters a minute
LONGEST_SOUND = 1800.0  # seconds: 80 MB


@dataclass(frozen=True)
class Melody(Tokens):
    """Melodies of so many bars as tokens: at every step a note begins, is held, or there is rest.

    Token k + 1 is event k: 0 … 127 begin a note of this MIDI pitch, 128 holds the note, 129 is rest. There are 16
    steps a bar (:meth:`~pyro_vae.data.music.line.Line.events` says how a piece is brought to them), and all melodies
    have one length, so none has an end (token 0). A hold at the first step or after a rest holds nothing: it is
    written as rest wherever melodies become tokens, and heard as rest.

    As text a melody is its steps, each a note's name with its octave (C4 is the middle C), ``-`` or ``.``, with ``|``
    between bars.

    Args:
        bars: of every melody; x has 16 times as many tokens.
        tempo: at which they are played, quarters a minute.

    Raises:
        InputError: for numbers that are not positive, and tempos outside 10 … 1000.

    Example:
        >>> from pyro_vae.data import Melody
        >>> melody = Melody(bars=1)
        >>> tokens = melody.encode(["C4 - - - E4 - - - G4 - - - - - . ."])
        >>> tokens[0].tolist()
        [61, 129, 129, 129, 65, 129, 129, 129, 68, 129, 129, 129, 129, 129, 130, 130]
        >>> melody.decode(tokens)
        ['C4 - - - E4 - - - G4 - - - - - . .']
    """

    bars: int = 2
    tempo: float = 120.0
    kind: ClassVar[str] = "melody"
    num_tokens: ClassVar[int] = NUM_EVENTS + 1
    ends: ClassVar[bool] = False  # no melody has an end

    def __post_init__(self) -> None:
        """Check the numbers."""
        if positive("bars", self.bars) > MOST_BARS:
            raise InputError(f"bars must be at most {MOST_BARS:,}, got {self.bars:,}")
        if isinstance(self.tempo, bool) or not isinstance(self.tempo, int | float):
            raise InputError(f"tempo must be a number (quarters a minute), got {self.tempo!r}")
        if not SLOWEST <= self.tempo <= FASTEST:
            raise InputError(f"tempo must be from {SLOWEST} to {FASTEST} (quarters a minute), got {self.tempo!r}")

    @property
    def length(self) -> int:  # type: ignore[override]
        """T, tokens of a melody."""
        return self.bars * STEPS

    def describe(self, train: Split) -> str:
        """How melodies are written."""
        x = train.column("x")
        share = (x <= PITCHES).float().mean().item()
        return f"melodies of {self.bars} bars, {STEPS} steps a bar; at {share:.0%} of the steps a note begins"

    def encode(self, things: Sequence[str | Path]) -> Tensor:
        """Melodies as tokens, int64 ``(N, T)``.

        Args:
            things: melodies as text, or files of which one melody each is read (:meth:`read`), told by their suffix.

        Raises:
            InputError: naming the melody that has an unknown step or another number of bars; and as :meth:`read`, also
                for a file of several tunes.
        """
        texts = []
        for thing in things:
            if str(thing).lower().endswith(SUFFIXES):
                found = self.read(Path(thing))
                if len(found) > 1:
                    raise InputError(f"{thing}: {len(found)} tunes; give a file with one, or Melody.read(path)")
                texts += found
            else:
                texts.append(str(thing))
        rows = [self._events(text) for text in texts]
        return torch.from_numpy(np.stack(rows) + 1) if rows else torch.zeros(0, self.length, dtype=torch.int64)

    def decode(self, tokens: Tensor) -> list[str]:
        """Melodies ``(N, T)`` as text; a token 0 (which no melody has) is rest."""
        return [as_text(events) for events in self.events(tokens)]

    def events(self, tokens: Tensor) -> np.ndarray:
        """Canonical events of tokens, ``(..., T)``; a token 0 (which no melody has) is rest.

        Raises:
            InputError: for tokens outside 0 … 130.
        """
        events = tokens.detach().cpu().long().numpy() - 1
        return canonical(np.where(events == -1, REST, events))

    def tokens(self, events: np.ndarray) -> Tensor:
        """Tokens of events ``(..., T)``, int64, in their canonical form."""
        return torch.from_numpy(canonical(events) + 1)

    def read(self, path: Path) -> list[str]:
        """The melodies of a MIDI (.mid), MusicXML (.mxl, .musicxml) or ABC file, as :meth:`encode` takes them.

        The first bars are taken, from the first that has a note; where a piece is longer, or shorter (rests follow),
        the log says so. Tunes of an ABC file that are not understood are left out and counted in the log.

        Raises:
            InputError: naming the file, if it is not there, of another kind, too large, has no notes, or is in another
                metre than 4/4, 2/2 or 2/4; of an ABC file if no tune can be read.
            CorruptFileError: if it is damaged.
        """
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise InputError(f"{path}: melodies are read from {', '.join(SUFFIXES)}")
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        if suffix in READERS:
            return [as_text(self._first_bars(READERS[suffix](path)))]
        found, left_out, texts = [], [], read_abc(path)
        for text in texts:
            try:
                found.append(as_text(self._first_bars(read_tune(text))))
            except InputError as error:
                title = title_of(text)[:60] or "a tune without a title"
                left_out.append(f"{title}: {str(error).removeprefix(f'{title}: ')}")
        if not found:
            raise InputError(f"{path}: no tune that can be read ({left_out[0]})")
        if left_out:
            logger.warning("%s: %d tunes left out of %d: %s", path, len(left_out), len(texts), "; ".join(left_out[:3]))
        return found

    def write(self, path: Path, tokens: Tensor, names: Sequence[str]) -> list[Path]:
        """Write melodies into the folder ``path``: of each ``<name>.mid`` and, if it lasts at most half an hour,
        ``<name>.wav``; of longer ones the log says so.

        Args:
            path: the folder; made if need be.
            tokens: ``(N, T)``; of more bars than ``bars`` all are written.
            names: of the files, without a suffix.

        Returns:
            the folder.

        Raises:
            InputError: if a file cannot be written.
        """
        seconds = tokens.shape[1] * 15.0 / self.tempo
        heard = seconds <= LONGEST_SOUND
        if not heard:
            logger.warning("%s: no sound is written of melodies of %.0f minutes, MIDI alone", path, seconds / 60)
        for name, events in zip(names, self.events(tokens), strict=True):
            notes = notes_of(events)
            write_midi(path / f"{name}.mid", notes, tempo=self.tempo)
            sound = path / f"{name}.wav"
            if heard:
                write_wav(sound, synthesized(notes, len(events), tempo=self.tempo), SAMPLE_RATE)
            else:
                sound.unlink(missing_ok=True)  # of another melody
        return [path]

    def plain(self) -> dict[str, Any]:
        """What it is, as plain values."""
        return {"kind": self.kind, "bars": self.bars, "tempo": self.tempo}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Melody:
        """What :meth:`plain` gave.

        Raises:
            ValueError, KeyError: for other values.
        """
        try:
            return cls(values["bars"], values["tempo"])
        except InputError as error:
            raise ValueError(str(error)[:200]) from error

    def _events(self, text: str) -> np.ndarray:
        steps = text.replace(BAR, " ").split()
        if len(steps) != self.length:
            raise InputError(
                f"a melody has {self.length} steps ({self.bars} bars), got {len(steps)} in '{text[:60]}'; "
                f"files end in {', '.join(SUFFIXES)}"
            )
        return canonical([_event(step, text) for step in steps])

    def _first_bars(self, line: Line) -> np.ndarray:
        events = line.events()
        first = notes_of(events)[0].start // STEPS * STEPS
        events = events[first:]
        bars = len(events) // STEPS
        if bars > self.bars:
            logger.info("%s: %d bars, of which the first %d are taken", line.name, bars, self.bars)
        elif bars < self.bars:
            logger.info("%s: %d bars, and rests behind them up to %d", line.name, bars, self.bars)
        return np.pad(events[: self.length], (0, max(0, self.length - len(events))), constant_values=REST)


def as_text(events: np.ndarray) -> str:
    """Canonical events ``(T,)`` as text: the names of notes, ``-`` where one is held, ``.`` where there is rest."""
    steps = [name_of(event) if event < PITCHES else HELD if event == HOLD else SILENT for event in events.tolist()]
    return f" {BAR} ".join(" ".join(steps[i : i + STEPS]) for i in range(0, len(steps), STEPS))


def name_of(pitch: int) -> str:
    """A MIDI pitch's name: C4 for 60, C-1 for 0."""
    return f"{NAMES[pitch % 12]}{pitch // 12 - 1}"


def _event(step: str, text: str) -> int:
    if step in (HELD, SILENT):
        return HOLD if step == HELD else REST
    found = re.fullmatch(r"([A-G]#?)(-1|\d)", step)
    pitch = NAMES.index(found[1]) + 12 * (int(found[2]) + 1) if found and found[1] in NAMES else -1
    if not 0 <= pitch < PITCHES:
        raise InputError(f"'{step[:20]}' is no step of a melody (C4, F#5, - or .), in '{text[:60]}'")
    return pitch
