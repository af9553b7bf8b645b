"""A tune in ABC notation as it is played: repeats with their endings, bars, ties."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from pyro_vae.data.music.line import Line, Sounding
from pyro_vae.errors import InputError


class NotUnderstood(InputError):
    """A tune has something that is not read here, or bars that do not add up; the message says what."""


@dataclass
class Mark:
    """A bar line: whether a repeat ends or begins there, an ending's numbers, and whether a part may end there."""

    ends: bool = False
    begins: bool = False
    ending: frozenset[int] = frozenset()
    heavy: bool = False


@dataclass
class Tone:
    """A note, or a rest (pitch None): its length in whole notes, and whether it is tied to the next."""

    pitch: int | None
    length: Fraction
    tied: bool = False


@dataclass
class Tune:
    """A tune as it is being read.

    Attributes:
        title: field T.
        metre: field M, (4, 4) for C, (2, 2) for C|; None if it changes or there is none.
        unit: field L, the length of a note without a number, in whole notes.
        key: alterations by letter, in semitones.
        body: notes and bar lines as they are written.
    """

    title: str = ""
    metre: tuple[int, int] | None = None
    unit: Fraction | None = None
    key: dict[str, int] = field(default_factory=dict)
    body: list[Tone | Mark] = field(default_factory=list)


def unfolded(body: list[Tone | Mark]) -> list[Tone | Mark]:
    """Notes and bar lines as they are played, with their repeats.

    A repeat goes back to the last double bar, the last mark of a repeat, or the beginning, whichever is later.
    """
    played: list[Tone | Mark] = []
    part: list[Tone | Mark] = []
    place = 0
    while place < len(body):
        item = body[place]
        if isinstance(item, Tone) or not item.heavy:
            part.append(item)
        elif item.ending and item.ends:
            raise NotUnderstood("a second ending without a first")
        elif item.ending:
            endings, place = _endings(body, place)
            for time in range(1, max(endings) + 1):
                if time not in endings:
                    raise NotUnderstood(f"no ending {time}")
                played += [*part, item, *endings[time]]
            part = []
            continue
        else:
            played += [*part, item] * (2 if item.ends else 1)
            part = []
        place += 1
    return played + part


def _endings(body: list[Tone | Mark], place: int) -> tuple[dict[int, list[Tone | Mark]], int]:
    """The endings that begin at a place, by number, each with the bar line behind it; and the place after them."""
    endings: dict[int, list[Tone | Mark]] = {}
    mark = body[place]
    while isinstance(mark, Mark) and mark.ending:
        first = place + 1
        place = next(
            (i for i in range(first, len(body)) if isinstance(line := body[i], Mark) and line.heavy), len(body)
        )
        content = [*body[first:place], Mark(heavy=True)]
        for number in mark.ending:
            if number in endings:
                raise NotUnderstood(f"two endings {number}")
            endings[number] = content
        if place == len(body):
            break
        mark = body[place]
        if isinstance(mark, Mark) and not mark.ending:
            place += 1
            following = body[place] if place < len(body) else None
            if mark.ends and isinstance(following, Mark) and following.ending:
                mark = following
    return endings, place


def placed(played: list[Tone | Mark], tune: Tune) -> Line:
    """Notes at their times, tied ones joined; the bars are checked."""
    bar = Fraction(*tune.metre) if tune.metre else None
    following = _lengths_of_bars(played)
    now = bar - following[0] if bar and following and 0 < following[0] < bar else Fraction(0)  # an upbeat's bar
    notes: list[Sounding] = []
    tied = False
    for place, item in enumerate(played):
        if isinstance(item, Mark):
            if bar and item.heavy:
                now += _moved(now, bar, notes, following[place])
            elif bar and now % bar:
                raise NotUnderstood(f"bars that do not add up: {float(now / bar):.5g} bars before a bar line")
            continue
        end = now + item.length
        if item.pitch is not None:
            if tied and notes and notes[-1].pitch == item.pitch and notes[-1].end == now:
                notes[-1] = Sounding(item.pitch, notes[-1].start, end)
            else:
                notes.append(Sounding(item.pitch, now, end))
        tied, now = item.tied, end
    return Line(tune.title or "a tune without a title", tune.metre, tuple(notes), now)


def _moved(now: Fraction, bar: Fraction, notes: list[Sounding], following: Fraction) -> Fraction:
    """By how much a part is moved so that its bar lines stand on the grid; 0 where bars are written as they should be.

    A bar before a repeat or double bar should lack what the upbeat behind it has. Where it lacks more, there is rest;
    where it lacks less, its last note is cut. ``following`` is the length of the bar behind it, 0 if there is none.
    """
    lacking = -(now + following) % bar
    if lacking == 0 or not notes or following == 0:
        return Fraction(0)
    if following != bar and following > bar / 2:
        raise NotUnderstood(f"bars that do not add up: one of {float(following / bar):.5g} begins a part")
    over = bar - lacking
    return -over if over < lacking and notes[-1].end == now and notes[-1].end - notes[-1].start > over else lacking


def _lengths_of_bars(played: list[Tone | Mark]) -> list[Fraction]:
    """At each place, the length of the first bar from there on that has a note or a rest, in whole notes; or 0."""
    first = run = Fraction(0)
    lengths = []
    for item in reversed(played):
        run = run + item.length if isinstance(item, Tone) else Fraction(0)
        first = run or first
        lengths.append(first)
    return lengths[::-1]
