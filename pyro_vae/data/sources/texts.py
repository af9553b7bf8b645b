"""Texts in a file of one a line, in a column of a CSV file, or in a folder of one a file, as a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.data.dataset import Classes, RawData
from pyro_vae.data.images import TEXTS, class_names, file_names, find_splits, kind_of, shown
from pyro_vae.data.parts import PARTS, random_order
from pyro_vae.data.registry import source
from pyro_vae.data.texts import LINES, TABLES, Reading, TooLong, read_lines, read_table, read_whole, text_data
from pyro_vae.data.vocabulary import Kind
from pyro_vae.errors import InputError


@source(
    "a text file",
    "texts in a .txt file, one a line",
    reads=lambda path: path.is_file() and path.suffix.lower() in LINES,
)
def load_text_file(
    path: Path,
    *,
    vocabulary: Kind = "words",
    max_length: int | None = None,
    too_long: TooLong = "error",
    num_words: int | None = None,
    min_count: int = 1,
    lower: bool = True,
) -> RawData:
    """Load the texts of a file, one a line, split at random (seed 0) into 80% / 10% / 10%.

    Args:
        path: the file, in UTF-8; empty lines are passed over, and the log says how many.
        vocabulary: what the tokens are, words, characters or byte-pairs, learned of the training texts.
        max_length: most tokens of a text; if None, those of the longest one.
        too_long: what is done with longer texts: error, cut (to so many tokens) or drop (left out).
        num_words: most words or characters that are kept, the most frequent ones; of byte pairs, tokens (1,024).
        min_count: words or characters that occur less often in the training texts are unknown.
        lower: write all in lower case.

    Returns:
        ``x`` int64 (N, T), tokens and at least one 0; the vocabulary.

    Raises:
        CorruptFileError: naming the file and the line, if it is not UTF-8.
        InputError: naming the file, if it holds no text, or one that is too long.
    """
    reading = Reading(vocabulary, max_length, too_long, num_words, min_count, lower)
    return text_data(_at_random(read_lines(path)), reading, str(path))


@source(
    "a table of texts",
    "texts in a column of a .csv or .tsv file, with labels in another one",
    reads=lambda path: path.is_file() and path.suffix.lower() in TABLES,
)
def load_text_table(
    path: Path,
    *,
    column: str | None = None,
    label_column: str | None = None,
    vocabulary: Kind = "words",
    max_length: int | None = None,
    too_long: TooLong = "error",
    num_words: int | None = None,
    min_count: int = 1,
    lower: bool = True,
) -> RawData:
    """Load the texts of a column, split at random (seed 0) into 80% / 10% / 10%.

    Args:
        path: the file, in UTF-8, whose first row names the columns.
        column: of the texts; if None, text, or the only one that holds no labels.
        label_column: of labels, words or integers, which become y; none if it is not given.
        vocabulary, max_length, too_long, num_words, min_count, lower: as for :func:`load_text_file`.

    Returns:
        ``x`` int64 (N, T), with labels ``y`` int64 (N,), places among the labels in sorted order; vocabulary and names
        of the labels.

    Raises:
        CorruptFileError: naming the file and the line, if it is no CSV, or not UTF-8.
        InputError: naming the file and the line, for columns that are not there, empty texts, and texts too long.
    """
    reading = Reading(vocabulary, max_length, too_long, num_words, min_count, lower)
    texts, said = read_table(path, column, label_column)
    parts = _at_random(texts)
    if said is None:
        return text_data(parts, reading, str(path))
    words, classes = _at_random(said), sorted({*said}, key=_number_or_word)
    return text_data(
        parts, reading, str(path), labels=_labels(words, classes), extras=(Classes(tuple(map(shown, classes))),)
    )


@source(
    "a folder of texts",
    "text files in a folder, one text a file, or train.txt, validation.txt and test.txt of one a line",
    reads=lambda path: path.is_dir() and kind_of(path) is TEXTS,
)
def load_text_folder(
    path: Path,
    *,
    vocabulary: Kind = "words",
    max_length: int | None = None,
    too_long: TooLong = "error",
    num_words: int | None = None,
    min_count: int = 1,
    lower: bool = True,
) -> RawData:
    """Load a folder of text files, laid out as a folder of images may be, or of a file a part.

    One text a file, in the folder, in one sub-folder per class, or in train/validation/test folders of either; without
    split folders split at random (seed 0) into 80% / 10% / 10%. Where the files are ``train.txt`` and, if there are
    such, ``validation.txt`` and ``test.txt``, and no others, each holds the texts of a part, one a line.

    Args:
        path: the folder; hidden files and folders are passed over.
        vocabulary, max_length, too_long, num_words, min_count, lower: as for :func:`load_text_file`.

    Returns:
        ``x`` int64 (N, T), and with class folders ``y`` int64 (N,), the class's place in sorted order; the vocabulary,
        the files' names, and the classes'.

    Raises:
        CorruptFileError: naming the file and the line, if it is not UTF-8.
        InputError: naming the file or folder, for other layouts, empty files, and texts that are too long.
    """
    reading = Reading(vocabulary, max_length, too_long, num_words, min_count, lower)
    files = files_of_parts(path)
    if files:
        return text_data({part: read_lines(file) for part, file in files.items()}, reading, str(path))
    splits = find_splits(path, TEXTS)
    texts = {part: [read_whole(file) for file, _ in members] for part, members in splits.items()}
    names, classes = file_names(path, splits), class_names(splits)
    if not classes:
        return text_data(texts, reading, str(path), names=names)
    words = {part: [label for _, label in members if label is not None] for part, members in splits.items()}
    known = (Classes(tuple(map(shown, classes))),)
    return text_data(texts, reading, str(path), labels=_labels(words, classes), names=names, extras=known)


def files_of_parts(path: Path) -> dict[str, Path]:
    """The files of a folder that holds one a part, ``train.txt`` and others of the parts' names; else none."""
    files = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
    found = {file.stem: file for file in files if file.suffix.lower() in LINES}
    others = [name for name in found if name not in PARTS]
    folders = any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir())
    if "train" not in found or folders:
        return {}
    if others:
        raise InputError(
            f"{found[others[0]]}: beside train.txt there may only be validation.txt and test.txt, of one text a line"
        )
    return {part: found[part] for part in PARTS if part in found}


def _at_random(texts: Sequence[str]) -> dict[str, list[str]]:
    """Texts, or what is said of them, by part; which is in which part depends on their number alone."""
    return {part: [texts[i] for i in places.tolist()] for part, places in random_order(len(texts)).items()}


def _labels(words: Mapping[str, Sequence[str]], classes: Sequence[str]) -> dict[str, Tensor]:
    places = {name: place for place, name in enumerate(classes)}
    return {part: torch.tensor([places[word] for word in some]) for part, some in words.items()}


def _number_or_word(label: str) -> tuple[int, int, str]:
    """Integers by size, then words by alphabet."""
    digits = label.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) < 19:
        return 0, int(label), label
    return 1, 0, label
