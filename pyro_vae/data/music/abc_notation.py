"""Tunes in ABC notation: one voice, as it is played."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from pyro_vae.data.music.abc_tune import Mark, NotUnderstood, Tone, Tune, placed, unfolded
from pyro_vae.data.music.line import Line
from pyro_vae.data.music.midi import bounded
from pyro_vae.errors import InputError

MOST_BYTES = 1 << 22  # of a file: a book of tunes has a hundredth of that
MOST_CHARACTERS, MOST_TUNES = 1 << 16, 1 << 14  # of a tune; of a file
SHARPS, LETTERS = "FCGDAEB", "CDEFGAB"
SEMITONES = dict(zip(LETTERS, (0, 2, 4, 5, 7, 9, 11), strict=True))
MIDDLE_C = 60
FIFTHS = {letter: place for letter, place in zip("FCGDAEB", range(-1, 6), strict=True)}  # sharps of its major key
MODES = {"major": 0, "ionian": 0, "lydian": 1, "mixolydian": -1, "dorian": -2}  # sharps beside those of major
MODES |= {"minor": -3, "aeolian": -3, "phrygian": -4, "locrian": -5}
ACCIDENTALS = {"^^": 2, "^": 1, "=": 0, "_": -1, "__": -2}
TUPLETS = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}  # (p: p notes in the time of q; of 5, 7 and 9 it depends on the metre
COMPOUND = (6, 9, 12)
FIELDS_LEFT_OUT = "ABCDFGHINOQRSWZrsw+"  # of people, not of notes

TOKEN = re.compile(
    r"""(?P<space>[ \t`]+|\\$)
    |(?P<left_out>"[^"]*"|\{[^}]*\}|![^!|\s]*!|\+[^+|\s]*\+|[~.HLMOPSTUuvky*$])
    |(?P<bar>:*\|+\]?:*|\[\|:*|::+|\|?\[(?=[1-9]))(?P<ending>[1-9](?:[,-][1-9])*)?
    |\[(?P<field>[A-Za-z]:[^\]]*)\]
    |\((?P<tuplet>[2-9])(?P<in_time>:[0-9]?(?::[0-9]?)?)?
    |(?P<slur>[()])
    |\[(?P<chord>(?:[\^=_]{0,2}[A-Ga-g][,']*[0-9/]*-?\s*)+)\](?P<chord_length>[0-9]*/*[0-9]*)
    |(?P<accidental>\^\^?|=|__?)?(?P<letter>[A-Ga-g])(?P<octave>[,']*)(?P<length>[0-9]*/*[0-9]*)
    |(?P<rest>[zx])(?P<rest_length>[0-9]*/*[0-9]*)
    |Z(?P<bars>[0-9]*)
    |(?P<tie>-)
    |(?P<broken>>{1,3}|<{1,3})""",
    re.VERBOSE,
)
IN_CHORD = re.compile(r"([\^=_]{0,2})([A-Ga-g])([,']*)([0-9]*/*[0-9]*)(-?)")


def read_abc(path: Path) -> list[str]:
    """The texts of a file's tunes, each from its field X on; what stands before the first is left out.

    Raises:
        CorruptFileError: if the file cannot be read.
        InputError: naming the file, if it is too large, or has no tunes.
    """
    text = bounded(path, MOST_BYTES, "ABC").decode("utf-8", errors="replace")
    tunes = re.split(r"^(?=X:)", text.replace("\r\n", "\n").replace("\r", "\n"), flags=re.MULTILINE)[1:]
    if not tunes:
        raise InputError(f"{path}: no ABC tunes: each begins with a line X:")
    if len(tunes) > MOST_TUNES:
        raise InputError(f"{path}: {len(tunes):,} tunes; {MOST_TUNES:,} are the most")
    return tunes


def title_of(text: str) -> str:
    """The title of a tune, its first field T."""
    found = re.search(r"^T:[ \t]*(.*)", text, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def read_tune(text: str) -> Line:
    """Read one tune as it is played: repeats with their endings are played, ties and broken rhythm are counted.

    Chords become their highest note; grace notes, ornaments and chord symbols are left out. An accidental counts to the
    end of the bar, in its octave. An upbeat stands at the end of a bar of its own.

    Args:
        text: from its field X on.

    Raises:
        NotUnderstood: for anything else (several voices, macros, lyrics' symbols out of place, keys without a meaning),
            and for bars that do not add up.

    Source: the ABC standard 2.1 (abcnotation.com).

    Example:
        >>> from pyro_vae.data.music.abc_notation import read_tune
        >>> line = read_tune("X:1\\nT:A scale\\nM:4/4\\nL:1/8\\nK:D\\nDEFG ABcd|")
        >>> [note.pitch for note in line.notes]
        [62, 64, 66, 67, 69, 71, 73, 74]
    """
    if len(text) > MOST_CHARACTERS:
        raise NotUnderstood(f"a tune of more than {MOST_CHARACTERS:,} characters")
    tune = _read(text)
    return placed(unfolded(tune.body), tune)


def _read(text: str) -> Tune:
    tune, in_body = Tune(), False
    reader = _Body(tune)
    for line in text.split("\n"):
        line = re.sub(r"(?<!\\)%.*", "", line).rstrip()
        found = re.match(r"([A-Za-z+]):(?![|:])(.*)", line)
        if found:
            in_body = _field(tune, found[1], found[2].strip(), in_body) or in_body
        elif in_body:
            reader.read(line)
    if not in_body:
        raise NotUnderstood("no field K, with which the notes begin")
    reader.finish()
    return tune


def _field(tune: Tune, name: str, value: str, in_body: bool) -> bool:
    """Take a field; whether it is the one that the notes follow."""
    if name == "T":
        tune.title = tune.title or " ".join(value.split())
    elif name == "M":
        metre = _metre(value)
        tune.metre = metre if not tune.body or metre == tune.metre else None
    elif name == "L":
        found = re.fullmatch(r"(\d{1,3})/(\d{1,3})", value.replace(" ", ""))
        if not found or int(found[1]) == 0 or int(found[2]) == 0:
            raise NotUnderstood(f"a unit of length '{value[:40]}'")
        tune.unit = Fraction(int(found[1]), int(found[2]))
    elif name == "K":
        tune.key = key_of(value)
        return True
    elif name not in FIELDS_LEFT_OUT + "X" or (name == "X" and in_body):
        raise NotUnderstood(f"a field {name}:")
    return False


def _metre(value: str) -> tuple[int, int] | None:
    named = {"C": (4, 4), "C|": (2, 2), "none": None, "": None}
    if value in named:
        return named[value]
    found = re.fullmatch(r"(\d{1,2})/(\d{1,2})", value.replace(" ", ""))
    if not found or int(found[1]) == 0 or int(found[2]) == 0:
        raise NotUnderstood(f"a metre '{value[:40]}'")
    return int(found[1]), int(found[2])


def key_of(value: str) -> dict[str, int]:
    """The alterations of a key such as ``G``, ``F#m``, ``Edor`` or ``D mix ^g``, in semitones by letter.

    Raises:
        NotUnderstood: for what is no key.
    """
    value = " ".join(re.sub(r"\b(clef=)?(treble|bass|alto)\b", "", value).split())  # single spaces
    if value in ("", "none"):
        return {}
    if value in ("HP", "Hp"):
        return {"F": 1, "C": 1}
    found = re.fullmatch(r"([A-G])([#b]?)\s*([A-Za-z]*)((?:\s*[\^=_]{1,2}[A-Ga-g])*)", value)
    mode = {"": "major", "m": "minor"}.get(found[3], found[3].lower()) if found else ""
    modes = [sharps for name, sharps in MODES.items() if len(mode) > 2 and name.startswith(mode)]
    if not found or not modes:
        raise NotUnderstood(f"a key '{value[:40]}'")
    fifths = FIFTHS[found[1]] + {"#": 7, "b": -7, "": 0}[found[2]] + modes[0]
    if abs(fifths) > 7:
        raise NotUnderstood(f"a key '{value[:40]}'")
    key = dict.fromkeys(SHARPS[:fifths], 1) if fifths >= 0 else dict.fromkeys(SHARPS[fifths:], -1)
    for accidental, letter in re.findall(r"([\^=_]{1,2})([A-Ga-g])", found[4]):
        if accidental not in ACCIDENTALS:
            raise NotUnderstood(f"an accidental '{accidental}'")
        key[letter.upper()] = ACCIDENTALS[accidental]
    return key


class _Body:
    """Reads the lines of notes of a tune into its body."""

    def __init__(self, tune: Tune) -> None:
        self.tune = tune
        self.altered: dict[tuple[str, int], int] = {}  # in this bar, by letter and octave
        self.tuplet = (0, Fraction(1))  # notes left of it, and what their lengths are multiplied by
        self.broken = Fraction(0)  # of the note that follows > or <: what is added to its length

    def read(self, line: str) -> None:
        place = 0
        while place < len(line):
            found = TOKEN.match(line, place)
            if found is None or found.end() == place:
                raise NotUnderstood(f"'{line[place : place + 10]}'")
            self.take(found)
            place = found.end()

    def take(self, found: re.Match[str]) -> None:
        if found["letter"]:
            self.tone(self.pitch(found["accidental"], found["letter"], found["octave"]), found["length"])
        elif found["chord"]:
            self.chord(found["chord"], found["chord_length"])
        elif found["rest"]:
            self.tone(None, found["rest_length"])
        elif found["bar"] is not None:
            self.bar(found["bar"], found["ending"])
        elif found["field"]:
            name, _, value = found["field"].partition(":")
            _field(self.tune, name, value.strip(), True)
        elif found["tuplet"]:
            self.begin_tuplet(int(found["tuplet"]), found["in_time"] or "")
        elif found["tie"]:
            self.last().tied = True
        elif found["broken"]:
            self.begin_broken(found["broken"])
        elif found["bars"] is not None:
            self.rest_of_bars(int(found["bars"][:4] or 1))

    def last(self) -> Tone:
        """The note before; bar lines may stand between."""
        if not self.tune.body or not isinstance(self.tune.body[-1], Tone):
            raise NotUnderstood("a tie or a broken rhythm without a note before it")
        return self.tune.body[-1]

    def pitch(self, accidental: str | None, letter: str, marks: str) -> int:
        """The MIDI pitch of a note, which the key and the bar's accidentals alter."""
        octave = letter.islower() + marks.count("'") - marks.count(",")
        letter = letter.upper()
        if accidental:
            if accidental not in ACCIDENTALS:
                raise NotUnderstood(f"an accidental '{accidental}'")
            self.altered[letter, octave] = ACCIDENTALS[accidental]
        altered = self.altered.get((letter, octave), self.tune.key.get(letter, 0))
        pitch = MIDDLE_C + SEMITONES[letter] + 12 * octave + altered
        if not 0 <= pitch < 128:
            raise NotUnderstood(f"a pitch {octave} octaves above the middle one")
        return pitch

    def tone(self, pitch: int | None, written: str) -> None:
        length = self.unit() * factor(written)
        left, scale = self.tuplet
        if left:
            length, self.tuplet = length * scale, (left - 1, scale)
        if self.broken:
            length, self.broken = length * (1 + self.broken), Fraction(0)
        self.tune.body.append(Tone(pitch, length))

    def unit(self) -> Fraction:
        if self.tune.unit is None:  # as the standard has it
            metre = self.tune.metre
            self.tune.unit = Fraction(1, 16) if metre and Fraction(*metre) < Fraction(3, 4) else Fraction(1, 8)
        return self.tune.unit

    def chord(self, written: str, length: str) -> None:
        """A chord is as long as its first note, and becomes its highest."""
        notes = IN_CHORD.findall(written)
        pitches = [self.pitch(accidental, letter, octave) for accidental, letter, octave, _, _ in notes]
        self.tone(max(pitches), "")
        self.last().length *= factor(notes[0][3]) * factor(length)
        self.last().tied = bool(notes[pitches.index(max(pitches))][4])

    def rest_of_bars(self, count: int) -> None:
        if self.tune.metre is None or not 0 < count < 1000:
            raise NotUnderstood("a rest of several bars without a metre")
        self.tune.body.append(Tone(None, Fraction(*self.tune.metre) * count))

    def begin_tuplet(self, count: int, more: str) -> None:
        metre = self.tune.metre
        of_metre = 3 if metre and metre[0] in COMPOUND else 2
        parts = [int(part) if part else 0 for part in more.split(":")[1:]] + [0, 0]
        time = parts[0] or TUPLETS.get(count, of_metre)
        self.tuplet = parts[1] or count, Fraction(time, count)

    def begin_broken(self, marks: str) -> None:
        """a>b: the first is longer by half, the second shorter by half; a>>b by three quarters."""
        change = 1 - Fraction(1, 2 ** len(marks))
        change = change if marks[0] == ">" else -change
        if self.broken:
            raise NotUnderstood(f"'{marks}' after another")
        self.last().length *= 1 + change
        self.broken = -change

    def bar(self, written: str, ending: str | None) -> None:
        self.altered = {}
        if self.broken:
            raise NotUnderstood("a broken rhythm across a bar line")
        numbers = frozenset(_numbers(ending)) if ending else frozenset()
        colons = "::" in written and "|" not in written
        self.tune.body.append(
            Mark(
                ends=colons or written.startswith(":"),
                begins=colons or (written.endswith(":") and "|" in written),
                ending=numbers,
                heavy=written not in ("|", "[") or bool(numbers),
            )
        )

    def finish(self) -> None:
        """Check that nothing is left open.

        Raises:
            NotUnderstood: if something is.
        """
        if self.broken or self.tuplet[0]:
            raise NotUnderstood("the tune ends within a tuplet or a broken rhythm")


def _numbers(ending: str) -> Iterator[int]:
    """The numbers of an ending, "1,3" or "1-3"."""
    for part in ending.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def factor(written: str) -> Fraction:
    """What a length says: "" 1, "3" 3, "/" 1/2, "//" 1/4, "3/2" 3/2, "/4" 1/4."""
    number, slashes, below = re.fullmatch(r"(\d*)(/*)(\d*)", written).groups()  # type: ignore[union-attr]
    if len(number) > 3 or len(below) > 3 or len(slashes) > 6 or number == "0" or (below and int(below) == 0):
        raise NotUnderstood(f"a length '{written[:40]}'")
    if below and len(slashes) > 1:
        raise NotUnderstood(f"a length '{written[:40]}'")
    return Fraction(int(number or 1), int(below) if below else 2 ** len(slashes))
