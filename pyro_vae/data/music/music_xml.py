"""MusicXML files, compressed (.mxl) or not: the first part's melody."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from pyro_vae.data.music.events import PITCHES
from pyro_vae.data.music.line import Line, Sounding
from pyro_vae.data.music.midi import bounded
from pyro_vae.errors import CorruptFileError, InputError

MOST_BYTES, MOST_UNPACKED = 1 << 22, 1 << 25  # of a file, and of what is packed in it
MOST_ELEMENTS, DEEPEST = 1_000_000, 50
FINEST = 1 << 32  # denominator of a time, in whole notes: sums of other fractions would grow without bound
CONTAINER = "META-INF/container.xml"
SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


def read_music_xml(path: Path) -> Line:
    """Read a melody from a MusicXML file: all voices of the first part, of which the highest notes are taken.

    Repeats are not played. Grace notes are left out; tied notes are joined; instruments that sound otherwise than they
    are written are read as they sound.

    Raises:
        CorruptFileError: naming the file, if it is no MusicXML file or damaged.
        InputError: naming the file, if it is larger than music is, packed or unpacked, or not in parts.
    """
    content = bounded(path, MOST_BYTES, "MusicXML")
    if content[:2] == b"PK":
        content = _unpacked(content, path)
    return _line(_tree(content, path), path)


def _damaged(path: Path, what: object) -> CorruptFileError:
    return CorruptFileError(f"{path}: not a readable MusicXML file ({what}); replace or remove it")


def _unpacked(content: bytes, path: Path) -> bytes:
    """The score in a .mxl file; never more is unpacked than a score may have."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(each.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for each in archive.infolist()):
                raise _damaged(path, "it is packed in another way than by deflating")
            names = archive.namelist()
            if CONTAINER in names:
                root = _tree(_member(archive, CONTAINER, path), path).find(".//{*}rootfile")
                name = "" if root is None else root.get("full-path", "")
            else:
                name = next((each for each in names if each.lower().endswith((".xml", ".musicxml"))), "")
            return _member(archive, name, path)
    except InputError:
        raise
    except (KeyError, ValueError, OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from error


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    with archive.open(name) as file:
        content = file.read(MOST_UNPACKED + 1)
    if len(content) > MOST_UNPACKED:
        raise InputError(f"{path}: unpacks to more than {MOST_UNPACKED:,} bytes, which no score needs")
    return content


def _tree(content: bytes, path: Path) -> ElementTree.Element:
    """XML as a tree; entities of its own, which could grow without bound, are refused."""
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    count = depth = 0

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal count, depth
        count, depth = count + 1, depth + 1
        if count > MOST_ELEMENTS or depth > DEEPEST:
            raise InputError(f"{path}: more than {MOST_ELEMENTS:,} elements, or {DEEPEST} within one another")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def entity(*_: object) -> None:
        raise InputError(f"{path}: defines entities, which MusicXML has none of")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = begin, end, builder.data
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(path, error) from error
    return builder.close()


def _line(root: ElementTree.Element, path: Path) -> Line:
    if root.tag != "score-partwise":
        raise InputError(f"{path}: a MusicXML score must be 'score-partwise', got '{root.tag[:40]}'")
    part = root.find("part")
    if part is None:
        raise InputError(f"{path}: no parts")
    try:
        return _part(part, path)
    except (ValueError, ZeroDivisionError, AttributeError, KeyError, TypeError) as error:
        raise _damaged(path, f"a measure is not as it should be: {error}") from error


def _part(part: ElementTree.Element, path: Path) -> Line:
    """Measures one after another; within one, a cursor that goes back for each voice."""
    divisions, semitones, begin = 1, 0, Fraction(0)
    metres: list[tuple[int, int]] = []
    notes: list[Sounding] = []
    ties: dict[int, int] = {}  # which notes are tied to a later one, by pitch
    for number, measure in enumerate(part.iter("measure")):
        now = last = longest = begin
        for item in measure:
            if item.tag == "attributes":
                divisions = _whole(item, "divisions", divisions)
                metres += [(_whole(time, "beats"), _whole(time, "beat-type")) for time in item.findall("time")]
                if (transpose := item.find("transpose")) is not None:
                    semitones = _whole(transpose, "chromatic", 0) + 12 * _whole(transpose, "octave-change", 0)
            elif item.tag in ("backup", "forward"):
                length = Fraction(_whole(item, "duration"), 4 * divisions)
                now += length if item.tag == "forward" else -length
            elif item.tag == "note" and item.find("grace") is None:
                length = Fraction(_whole(item, "duration"), 4 * divisions)
                start = last if item.find("chord") is not None else now
                if start < begin or length < 0:
                    raise ValueError("a note before its measure")
                last, now = start, max(now, start + length)
                pitch = _pitch(item, semitones)
                if pitch is not None:
                    _add(Sounding(pitch, start, start + length), item, notes, ties)
            if now.denominator > FINEST:
                raise ValueError("times that are no multiples of a common one")
            longest = max(longest, now)
        if number == 0 and metres and 0 < (first := longest - begin) < (bar := Fraction(*metres[0])):
            notes = [Sounding(note.pitch, note.start + bar - first, note.end + bar - first) for note in notes]
            longest += bar - first  # an upbeat stands at the end of its bar
        begin = longest
    metre = metres[0] if len(set(metres)) == 1 else None
    return Line(str(path), metre, tuple(sorted(notes, key=lambda note: note.start)), begin)


def _add(note: Sounding, item: ElementTree.Element, notes: list[Sounding], ties: dict[int, int]) -> None:
    """Add a note, or lengthen the one that it is tied to."""
    kinds = {tie.get("type") for tie in item.findall("tie")}
    place = ties.pop(note.pitch, None)
    if place is not None and "stop" in kinds and notes[place].end == note.start:
        notes[place] = Sounding(note.pitch, notes[place].start, note.end)
    else:
        place = len(notes)
        notes.append(note)
    if "start" in kinds:
        ties[note.pitch] = place


def _pitch(item: ElementTree.Element, semitones: int) -> int | None:
    """The MIDI pitch of a note as it sounds; None for a rest, and for what has no pitch."""
    pitch = item.find("pitch")
    if pitch is None:
        return None
    alter = (pitch.findtext("alter") or "0").strip()
    if not re.fullmatch(r"[+-]?\d{0,3}(\.\d{0,9})?", alter):  # quarter tones are halves of semitones
        raise ValueError(f"alter must be a number of semitones, got {alter[:20]!r}")
    letter = (pitch.findtext("step") or "").strip()
    value = SEMITONES[letter] + 12 * (_whole(pitch, "octave") + 1) + round(float(alter)) + semitones
    if not 0 <= value < PITCHES:
        raise ValueError(f"a pitch {value}, outside 0 … {PITCHES - 1}")
    return value


def _whole(item: ElementTree.Element, name: str, default: int | None = None) -> int:
    """An element's whole number.

    Raises:
        ValueError: if it is none, or there is none and no default.
    """
    text = item.findtext(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"\s*-?\d{1,9}\s*", text):
        raise ValueError(f"{name} must be a whole number, got {text and text[:20]!r}")
    return int(text)
