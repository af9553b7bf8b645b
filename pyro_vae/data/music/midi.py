"""Standard MIDI files: the melody of one is read, and one is written."""

from __future__ import annotations

import struct
from collections import defaultdict, deque
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from statistics import fmean

from pyro_vae.data.music.events import Note
from pyro_vae.data.music.line import Line, Sounding
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_atomically

MOST_BYTES = 1 << 23  # of a file: songs have a hundredth of that
PERCUSSION = 9  # the channel of drums, from 0
DATA_BYTES = {0x8: 2, 0x9: 2, 0xA: 2, 0xB: 2, 0xC: 1, 0xD: 1, 0xE: 2}  # of a message, by its kind
META, TIME_SIGNATURE, TEMPO, END_OF_TRACK = 0xFF, 0x58, 0x51, 0x2F
TICKS = 480  # a quarter, in files written here
MELODIC = 0.5  # of the most notes that a voice has: with fewer, none is the melody


def read_midi(path: Path) -> Line:
    """Read a melody from a MIDI file (format 0 or 1).

    A voice is a track's channel; drums (channel 10) are none. The melody is the highest voice, by the mean of its
    pitches, among those with at least half as many notes as the one with the most. Time is read in ticks a quarter, so
    that tempo does not matter; without a time signature a file is in 4/4, as the standard has it.

    Raises:
        CorruptFileError: naming the file, if it is no MIDI file, damaged or cut off.
        InputError: naming the file, if it is too large, of format 2, or timed in seconds (SMPTE).
    """
    content = bounded(path, MOST_BYTES, "MIDI")
    try:
        return _line(content, path)
    except (struct.error, IndexError) as error:
        raise _damaged(path, "it ends too early") from error


def bounded(path: Path, most: int, kind: str) -> bytes:
    """A file's bytes, at most so many.

    Raises:
        CorruptFileError: if it cannot be read.
        InputError: if it is larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise CorruptFileError(f"{path}: not a readable {kind} file ({error}); replace or remove it") from error
    if len(content) > most:
        raise InputError(f"{path}: a {kind} file has at most {most:,} bytes here")
    return content


def _damaged(path: Path, what: str) -> CorruptFileError:
    return CorruptFileError(f"{path}: not a readable MIDI file ({what}); replace or remove it")


def _line(content: bytes, path: Path) -> Line:
    if content[:4] != b"MThd":
        raise _damaged(path, f"it begins with {content[:4]!r}, expected MThd" if content else "it is empty")
    length, form, tracks, division = struct.unpack_from(">IHHH", content, 4)
    if form not in (0, 1):
        raise InputError(f"{path}: a MIDI file of format {form}; save it as format 0 or 1")
    if division & 0x8000 or division == 0:
        raise InputError(f"{path}: its time is in seconds (SMPTE), not in beats; save it with ticks a quarter")
    voices: dict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)  # (pitch, start, end) in ticks
    metres: dict[int, tuple[int, int]] = {}  # from which tick on
    place, track, last = 8 + length, 0, 0
    while place + 8 <= len(content):
        kind, length = struct.unpack_from(">4sI", content, place)
        place += 8
        if place + length > len(content):
            raise _damaged(path, "it ends before the track that it says it has")
        if kind == b"MTrk":
            last = max(last, _track(content[place : place + length], track, voices, metres, path))
            track += 1
        place += length
    if track < tracks:
        raise _damaged(path, f"it says that it has {tracks} tracks, and has {track}")
    whole = 4 * division
    named = set(metres.values()) if 0 in metres else {(4, 4), *metres.values()}
    notes = tuple(
        Sounding(pitch, Fraction(start, whole), Fraction(end, whole)) for pitch, start, end in _melody(voices)
    )
    end = max((note.end for note in notes), default=Fraction(0))
    return Line(str(path), named.pop() if len(named) == 1 else None, notes, end)


def _melody(voices: dict[tuple[int, int], list[tuple[int, int, int]]]) -> list[tuple[int, int, int]]:
    """The notes of the voice that is the melody; none, if there are none."""
    most = max(map(len, voices.values()), default=0)
    melodic = [notes for notes in voices.values() if len(notes) >= MELODIC * most]
    return max(melodic, key=lambda notes: fmean(pitch for pitch, _, _ in notes), default=[])


def _track(
    content: bytes,
    track: int,
    voices: dict[tuple[int, int], list[tuple[int, int, int]]],
    metres: dict[int, tuple[int, int]],
    path: Path,
) -> int:
    """Read one track's notes and time signatures; the tick at which it ends."""
    place, now, status = 0, 0, 0
    open_notes: dict[tuple[int, int], deque[int]] = defaultdict(deque)  # since when a channel's pitch sounds
    while place < len(content):
        delta, place = _number(content, place)
        now += delta
        if content[place] & 0x80:
            status = content[place]
            place += 1
        elif not status:
            raise _damaged(path, "data without a message")
        if status == META:
            kind = content[place]
            length, place = _number(content, place + 1)
            data = content[place : place + length]
            place, status = place + length, 0
            if place > len(content):
                raise IndexError
            if kind == TIME_SIGNATURE and length >= 2 and data[1] < 8:
                metres[now] = data[0], 2 ** data[1]
            if kind == END_OF_TRACK:
                break
        elif status in (0xF0, 0xF7):
            length, place = _number(content, place)
            place, status = place + length, 0
        elif status >> 4 in DATA_BYTES:
            data = content[place : place + DATA_BYTES[status >> 4]]
            place += DATA_BYTES[status >> 4]
            if place > len(content) or max(data) > 0x7F:
                raise _damaged(path, "a message is cut off")
            kind, channel = status >> 4, status & 0xF
            if kind in (0x8, 0x9) and channel != PERCUSSION:
                began = open_notes[channel, data[0]]
                if kind == 0x9 and data[1] > 0:
                    began.append(now)
                elif began:  # the one that began first ends first
                    voices[track, channel].append((data[0], began.popleft(), now))
        else:
            raise _damaged(path, f"a message {status:#x}, which no file has")
    for (channel, pitch), began in open_notes.items():  # notes that are never ended last as long as the track
        voices[track, channel] += [(pitch, start, now) for start in began if start < now]
    return now


def _number(content: bytes, place: int) -> tuple[int, int]:
    """A number of up to four bytes, seven bits each, and the place behind it."""
    value = 0
    for _ in range(4):
        byte = content[place]
        value, place = value << 7 | byte & 0x7F, place + 1
        if not byte & 0x80:
            return value, place
    raise IndexError


def write_midi(path: str | Path, notes: Sequence[Note], *, tempo: float = 120.0) -> None:
    """Write notes as a MIDI file, whole or not at all: format 0, 4/4, a step a sixteenth, piano.

    Args:
        path: the file; its folder is made if need be.
        notes: the melody.
        tempo: quarters a minute.

    Raises:
        InputError: if the file cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from pyro_vae.data.music.events import Note
        >>> from pyro_vae.data.music.midi import read_midi, write_midi
        >>> write_midi("two-notes.mid", [Note(60, 0, 4), Note(67, 4, 12)])
        >>> [note.pitch for note in read_midi(Path("two-notes.mid")).notes]
        [60, 67]
    """
    step = TICKS // 4
    messages = [(note.start * step, 1, bytes([0x90, note.pitch, 96])) for note in notes]
    messages += [((note.start + note.duration) * step, 0, bytes([0x80, note.pitch, 0])) for note in notes]
    head = bytes([META, TEMPO, 3]) + round(60e6 / tempo).to_bytes(3, "big")
    track = b"\0" + head + b"\0" + bytes([META, TIME_SIGNATURE, 4, 4, 2, 24, 8])
    now = 0
    for tick, _, message in sorted(messages):  # an end before a beginning at the same tick
        track += _written(tick - now) + message
        now = tick
    track += b"\0" + bytes([META, END_OF_TRACK, 0])
    content = struct.pack(">4sIHHH", b"MThd", 6, 0, 1, TICKS) + struct.pack(">4sI", b"MTrk", len(track)) + track
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _written(value: int) -> bytes:
    """A number as :func:`_number` reads it."""
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(value & 0x7F | 0x80)
    return bytes(reversed(digits))
