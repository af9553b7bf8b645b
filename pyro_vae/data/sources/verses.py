"""The dataset ``verses``: the King James Bible, as Debian's package ``bible-kjv-text`` has it."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from pyro_vae.data.dataset import RawData
from pyro_vae.data.images import data_folders
from pyro_vae.data.parts import random_order
from pyro_vae.data.registry import source
from pyro_vae.data.texts import Reading, TooLong, text_data
from pyro_vae.data.vocabulary import Kind
from pyro_vae.errors import CorruptFileError, InputError

NAME, SYSTEM = "bible.data", Path("/usr/lib")  # where Debian puts it
VERSE = re.compile(r"(\d?[A-Za-z]+)(\d+):(\d+) (.+)")  # Ge1:1 In the beginning …
VERSES = 31_102
MAGIC, WINDOW, OFFSETS = b"EC02", 0x54, 0x5C  # of the file; where the size of a window and their places stand
LARGEST = 1 << 24  # bytes of the file
CLEAR, FIRST_BITS, MOST_BITS = 256, 9, 16  # of the codes of a window


@source(
    "verses",
    "31,102 verses of the King James Bible (Debian's bible-kjv-text; public domain), split by chapters",
)
def load_verses(
    root: Path | None,
    *,
    vocabulary: Kind = "words",
    max_length: int | None = None,
    too_long: TooLong = "error",
    num_words: int | None = None,
    min_count: int = 2,
    lower: bool = True,
) -> RawData:
    """Load the verses. Of the 1,189 chapters, 118 are for validation and 118 for test, chosen at random (seed 0).

    Args:
        root: a folder that holds ``bible.data``, looked in first.
        vocabulary, max_length, too_long, num_words, min_count, lower: as for texts of a file; words that occur once
            are unknown, so that a model has seen what an unknown word is.

    Returns:
        ``x`` int64 (N, T), tokens and at least one 0, per split; the vocabulary; the verses' names, ``"Ge1:1"``.

    Raises:
        InputError: if the file is not there (what to install), and for a verse that is too long.
        CorruptFileError: if it is damaged.
    """
    reading = Reading(vocabulary, max_length, too_long, num_words, min_count, lower)
    verses = read_verses(_find(root))
    chapters = list(dict.fromkeys(name.partition(":")[0] for name, _ in verses))
    part_of = {
        chapters[place]: part for part, places in random_order(len(chapters)).items() for place in places.tolist()
    }
    texts: dict[str, list[str]] = {part: [] for part in dict.fromkeys(part_of.values())}
    names: dict[str, list[str]] = {part: [] for part in texts}
    for name, text in verses:
        part = part_of[name.partition(":")[0]]
        texts[part].append(text), names[part].append(name)
    return text_data(texts, reading, "verses", names={part: tuple(some) for part, some in names.items()})


def _find(root: Path | None) -> Path:
    for folder in (*data_folders(root), SYSTEM):
        if (folder / NAME).is_file():
            return folder / NAME
    raise InputError(
        f"verses: there is no {SYSTEM / NAME}; install it with `apt-get install bible-kjv-text`, or put the file "
        f"{NAME} of that package into a folder and say root"
    )


def read_verses(path: Path) -> list[tuple[str, str]]:
    """The verses of a file of the Bible Retrieval System with their names, in order.

    Raises:
        CorruptFileError: naming the file, if it is no such file, or damaged.
    """
    try:
        text = read_windows(path).decode("ascii")
        lines = [VERSE.fullmatch(line) for line in text.split("\n")[1:] if line]  # the first says what it is
        found = [(f"{line[1]}{line[2]}:{line[3]}", line[4]) for line in lines if line is not None]
        if len(found) != VERSES or len(found) < len(lines) or len({name for name, _ in found}) < len(found):
            raise ValueError(f"{len(found):,} verses in {len(lines):,} lines, where {VERSES:,} are expected")
    except (OSError, ValueError) as error:
        raise CorruptFileError(
            f"{path}: truncated or damaged, or no text of bible-kjv-text ({error}); install it anew"
        ) from error
    return found


def read_windows(path: Path) -> bytes:
    """What a file of windows of one size holds, each compressed by itself (LZW, as by ``compress``).

    Big-endian integers: the size of a window, how many they are, and the place of each.

    Raises:
        ValueError: if it is no such file, or damaged.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST or not content.startswith(MAGIC) or len(content) < OFFSETS:
        raise ValueError(f"it does not begin with {MAGIC.decode()}, or is too large")
    size, count = (int.from_bytes(content[at : at + 4], "big") for at in (WINDOW, WINDOW + 4))
    if not 1 <= size <= 1 << 20 or not 1 <= count <= len(content) // 4:
        raise ValueError(f"{count:,} windows of {size:,} bytes")
    offsets = [int.from_bytes(content[at : at + 4], "big") for at in range(OFFSETS, OFFSETS + 4 * count, 4)]
    bounds = [*offsets, len(content)]
    if any(first >= then for first, then in pairwise(bounds)):
        raise ValueError("its windows are not one after another")
    return b"".join(unpacked(content[first:then], size) for first, then in pairwise(bounds))


def unpacked(packed: bytes, most: int) -> bytes:
    """What ``compress`` has packed, without its header: codes of 9 to 16 bits, in groups of eight.

    Args:
        packed: the codes.
        most: bytes that may come of them.

    Raises:
        ValueError: for codes that stand for nothing, and for more bytes.

    Source: Welch 1984, "A technique for high-performance data compression", IEEE Computer 17(6).
    """
    single = [bytes([value]) for value in range(CLEAR)] + [b""]  # the last one clears the table
    found, total, table, before = [], 0, [*single], b""
    width, begin, at, end = FIRST_BITS, 0, 0, 8 * len(packed)  # places in bits; begin: of the groups of this width
    while at + width <= end:
        code = (int.from_bytes(packed[at >> 3 : (at >> 3) + 4], "little") >> (at & 7)) & ((1 << width) - 1)
        at += width
        if code == CLEAR:
            at = begin = _group_end(begin, at, width)
            width, table, before = FIRST_BITS, [*single], b""
            continue
        if code > len(table) or (code == len(table) and not before):
            raise ValueError("a code that stands for nothing")
        text = table[code] if code < len(table) else before + before[:1]
        if before and len(table) < 1 << MOST_BITS:
            table.append(before + text[:1])
        found.append(text)
        total, before = total + len(text), text
        if total > most:
            raise ValueError(f"a window of more than {most:,} bytes")
        if len(table) >= 1 << width and width < MOST_BITS:
            at = begin = _group_end(begin, at, width)
            width += 1
    return b"".join(found)


def _group_end(begin: int, at: int, width: int) -> int:
    """Where the group of eight codes ends that a place is in, of groups that begin at another: rest is not used."""
    return begin - (begin - at) // (8 * width) * (8 * width)
