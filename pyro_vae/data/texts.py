"""Texts: read from files without trust, and made data, with a vocabulary learned of the training part."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from pyro_vae.data.dataset import Extra, RawData
from pyro_vae.data.images import shown
from pyro_vae.data.parts import Parts, Texts
from pyro_vae.data.vocabulary import Kind, Vocabulary, check_learning, short
from pyro_vae.errors import CorruptFileError, InputError, unknown
from pyro_vae.runtime import check_room

logger = logging.getLogger(__name__)

LINES, TABLES = (".txt",), (".csv", ".tsv")  # files of one text a line, or of columns
TooLong = Literal["error", "cut", "drop"]
IN_MEMORY = 8  # bytes of the texts of a file for one of the file, when they are split


@dataclass(frozen=True)
class Reading:
    """How texts become tokens: options of :meth:`~pyro_vae.data.Vocabulary.learn`, and what is done with long ones.

    Raises:
        InputError: names the option.
    """

    vocabulary: Kind = "words"
    max_length: int | None = None
    too_long: TooLong = "error"
    num_words: int | None = None
    min_count: int = 1
    lower: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_learning(self.vocabulary, self.max_length, self.num_words, self.min_count, self.lower)
        check_too_long(self.too_long)
        if self.too_long != "error" and self.max_length is None:
            raise InputError(f"too_long={self.too_long} is for texts of more than max_length tokens: say max_length")


def check_too_long(how: str) -> None:
    """Check what is to be done with texts that do not fit.

    Raises:
        InputError: if it is not known.
    """
    if how not in ("error", "cut", "drop"):
        raise unknown("too_long", str(how), ("error", "cut", "drop"))


def text_data(
    texts: Mapping[str, Sequence[str]],
    reading: Reading,
    label: str,
    *,
    labels: Mapping[str, Tensor] | None = None,
    names: Texts | None = None,
    extras: Sequence[Extra] = (),
) -> RawData:
    """Data of texts: a vocabulary is learned of the training part, and all parts are written in it.

    T is the longest text of any part and an end, or ``max_length`` and an end.

    Args:
        texts: by part.
        reading: how they become tokens.
        label: what errors and the log call them.
        labels: int64 ``(N,)`` by part, that become ``y``.
        names: one a text by part.
        extras: what is known beside.

    Raises:
        InputError: for texts that are too long, and a part of which nothing is left.
    """
    try:
        learned = Vocabulary.learn(
            texts["train"],
            kind=reading.vocabulary,
            num_words=reading.num_words,
            min_count=reading.min_count,
            lower=reading.lower,
        )
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    rows = {part: learned.numbers(some) for part, some in texts.items()}
    longest = max(len(row) for some in rows.values() for row in some)
    vocabulary = learned.with_max_length(longest if reading.max_length is None else reading.max_length)
    check_room(label, 8 * vocabulary.length * sum(map(len, rows.values())), "give a smaller max_length, or fewer texts")
    parts: Parts = {}
    kept_names: dict[str, tuple[str, ...]] = {}
    for part, some in texts.items():
        x, kept = fitted(vocabulary, some, rows[part], reading.too_long, f"{label} {part}")
        vocabulary.say_unknown([some[place] for place in kept], f"{label} {part}")
        parts[part] = {"x": x} if labels is None else {"x": x, "y": labels[part][kept]}
        if names is not None:
            kept_names[part] = tuple(names[part][place] for place in kept)
    return RawData(parts, kept_names, extras=(vocabulary, *extras))


def fitted(
    vocabulary: Vocabulary, texts: Sequence[str], rows: Sequence[list[int]], too_long: TooLong, label: str
) -> tuple[Tensor, list[int]]:
    """Texts as x, int64 ``(N, T)``, and which of them are kept; the log says how many were cut or left out.

    Raises:
        InputError: for a text that is too long, unless it may be cut or dropped; if nothing is left.
    """
    most = vocabulary.length - 1
    long = [place for place, row in enumerate(rows) if len(row) > most]
    if long and too_long == "error":
        remedy = f"{len(long):,} texts are: give a larger max_length, or say too_long=cut or too_long=drop"
        try:
            vocabulary.check_fits(texts[long[0]], len(rows[long[0]]), remedy)
        except InputError as error:
            raise InputError(f"{label}: {error}") from error
    if long:
        done = "cut to" if too_long == "cut" else "left out, of more than"
        logger.info("%s: %s of %s texts are %s %d tokens", label, f"{len(long):,}", f"{len(rows):,}", done, most)
    left_out = {*long} if too_long == "drop" else set()
    kept = [place for place in range(len(rows)) if place not in left_out]
    if not kept:
        raise InputError(f"{label}: no text has at most {most:,} tokens; give a larger max_length")
    return vocabulary.padded([rows[place][:most] for place in kept]), kept


def read_text(path: Path) -> str:
    """All of a text file, its lines ended by ``\\n``.

    Raises:
        InputError: if it cannot be read, or is larger than the memory.
        CorruptFileError: naming the line, if it is not UTF-8, or holds zeros, as no text does.
    """
    try:
        check_room(path, IN_MEMORY * path.stat().st_size)
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CorruptFileError(f"{path}, line {line}: not UTF-8 ({error.reason}); save it as UTF-8") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise CorruptFileError(f"{path}, line {line}: holds a zero byte, so it is no text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """The texts of a file of one a line; empty lines are passed over, and the log says how many.

    Raises:
        InputError: if there is none, and as :func:`read_text`.
        CorruptFileError: as :func:`read_text`.
    """
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        del lines[-1]  # what the last line is ended by
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise InputError(f"{path}: holds no text; it should have one a line")
    if len(texts) < len(lines):
        first = next(place for place, line in enumerate(lines, 1) if not line.strip())
        count = f"{len(lines) - len(texts):,}"
        logger.info("%s: %s empty lines are passed over, the first is line %d", path, count, first)
    return texts


def read_whole(path: Path) -> str:
    """The text that a file is.

    Raises:
        InputError: if it is empty, and as :func:`read_text`.
        CorruptFileError: as :func:`read_text`.
    """
    text = read_text(path)
    if not text.strip():
        raise InputError(f"{path} is empty: each file must hold a text; remove it")
    return text


def read_table(path: Path, column: str | None, label_column: str | None) -> tuple[list[str], list[str] | None]:
    """The texts of a column of a CSV file (or ``.tsv``, whose columns are divided by tabs), whose first row names them.

    Args:
        path: the file.
        column: of the texts; if None, ``text``, or the only column that is not the labels'.
        label_column: of labels, if any is to be taken.

    Returns:
        the texts, and their labels as they stand there.

    Raises:
        InputError: naming the file and the line, for columns that are not there, empty texts and labels, and rows of
            another length than the first; and as :func:`read_text`.
        CorruptFileError: naming the line, if it is no CSV; and as :func:`read_text`.
    """
    reader = csv.reader(
        io.StringIO(read_text(path)), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True
    )
    texts: list[str] = []
    labels: list[str] | None = None if label_column is None else []
    try:
        names = next(reader, [])
        at = _column(path, names, column, label_column)
        labels_at = None if label_column is None else _place(path, names, "label_column", label_column)
        for row in reader:
            if not row:
                continue  # an empty line
            where = f"{path}, line {reader.line_num}"
            if len(row) != len(names):
                raise InputError(f"{where}: has {len(row)} columns, but the first row names {len(names)}")
            if not row[at].strip():
                raise InputError(f"{where}: the text in column '{names[at]}' is empty; fill it, or remove the row")
            texts.append(row[at])
            if labels is not None and labels_at is not None:
                if not row[labels_at].strip():
                    raise InputError(f"{where}: the label in column '{label_column}' is empty; fill it")
                labels.append(row[labels_at].strip())
    except csv.Error as error:
        what = f"no CSV ({error})"
        if "field limit" in str(error):
            most = f"{csv.field_size_limit():,}"
            what = f"a column has more than {most} characters: split the text, or close a quotation mark that is open"
        raise CorruptFileError(f"{path}, line {reader.line_num}: {what}") from error
    if not texts:
        raise InputError(f"{path}: holds no rows under their names")
    return texts, labels


def _column(path: Path, names: Sequence[str], column: str | None, label_column: str | None) -> int:
    if column is not None:
        return _place(path, names, "column", column)
    others = [name for name in names if name != label_column]
    if "text" in others:
        return _place(path, names, "column", "text")
    if len(others) != 1:
        raise InputError(f"{path}: say which column holds the texts, column=…; it has: {_listed(names)}")
    return names.index(others[0])


def _place(path: Path, names: Sequence[str], option: str, name: str) -> int:
    if names.count(name) != 1:
        how = "no column" if name not in names else "several columns"
        raise InputError(f"{path}: {option}: it has {how} '{short(name)}'; its first row names: {_listed(names)}")
    return names.index(name)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(short(shown(name)) for name in names[:20]) or "nothing"
