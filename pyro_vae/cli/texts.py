"""Things of one's own for a run whose data are tokens: files, tables, folders, and arrays of numbers of tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.cli.context import labels_of
from pyro_vae.data import Split, Tokens, Vocabulary
from pyro_vae.data.images import TEXTS, file_names, find_splits, given_parts, kind_of
from pyro_vae.data.parts import random_order
from pyro_vae.data.sources.arrays import ARRAYS, read_arrays
from pyro_vae.data.sources.texts import files_of_parts
from pyro_vae.data.texts import LINES, TABLES, fitted, read_lines, read_table, read_whole
from pyro_vae.errors import InputError
from pyro_vae.programs.context import X
from pyro_vae.runs import Run

logger = logging.getLogger(__name__)


def of_texts(run: Run, path: Path, part: str | None = None) -> Split:
    """A file or folder as x of a run's tokens, with the vocabulary that the run keeps; the log counts unknown words.

    Args:
        run: whose data are tokens.
        path: a ``.txt`` file of one text a line, a ``.csv`` or ``.tsv`` file (with the columns of the run's data), a
            folder as the data may be, or a ``.npy`` file of tokens, integers (N, T).
        part: of a folder that has parts, "test" if None; else of the file as :func:`~pyro_vae.data.load_data` splits
            it, all of it if None.

    Raises:
        InputError: for what is not there, of another kind, empty, or too long for the run's model.
        CorruptFileError: naming the file and the line, if it is damaged.
    """
    tokens = run.tokens
    if tokens is None:
        raise InputError(f"{path}: the data of {run.path} are no texts")
    if path.suffix.lower() in ARRAYS:
        return _of_numbers(tokens, path, part)
    if not isinstance(tokens, Vocabulary):  # which have files of their own
        return Split({X: tokens.encode(tokens.read(path))}, integers=True, name=str(path))
    more: dict[str, Any] = {}
    if path.is_dir():
        texts, words, more["names"] = _of_folder(path, part)
    elif not path.is_file():
        raise InputError(f"{path}: no such file")
    elif path.suffix.lower() in LINES + TABLES:
        texts, words = _of_file(run, path, part)
    else:
        kinds = ", ".join((*LINES, *TABLES, ".npy"))
        raise InputError(f"{path}: the data are texts; give a file of one of these kinds: {kinds}")
    cut = "cut" if run.config.data.get("too_long") == "cut" else "error"  # what is dropped is not what was asked for
    x, _ = fitted(tokens, texts, tokens.numbers(texts), cut, str(path))
    tokens.say_unknown(texts, str(path))
    y = labels_of(run, words, sorted({*words}), str(path)) if words else None
    logger.info("%s: %s texts", path, f"{len(texts):,}")
    return Split({X: x} if y is None else {X: x, "y": y}, integers=True, name=str(path), **more)


def _of_file(run: Run, path: Path, part: str | None) -> tuple[list[str], list[str]]:
    """The texts of a file, and their labels, if the run's data have some."""
    if path.suffix.lower() in LINES:
        texts, words = read_lines(path), None
    else:
        data = run.config.data
        texts, words = read_table(path, data.get("column"), data.get("label_column"))
    chosen = _places(len(texts), path, part)
    return [texts[i] for i in chosen], [] if words is None else [words[i] for i in chosen]


def _of_folder(path: Path, part: str | None) -> tuple[list[str], list[str], Sequence[str] | None]:
    """The texts of a folder, the names of their classes, if they lie in class folders, and those of their files."""
    if kind_of(path) is not TEXTS:
        raise InputError(f"{path}: holds {kind_of(path).noun}, but the run's data are texts")
    files = files_of_parts(path)
    if files:
        _check_part(path, part or "test", files)
        return read_lines(files[part or "test"]), [], None
    splits = find_splits(path, TEXTS)
    if part is None and not given_parts(path):
        members = sorted(chain.from_iterable(splits.values()))
    else:
        _check_part(path, part or "test", splits)
        members = splits[part or "test"]
    names = file_names(path, {"test": members})["test"]
    return [read_whole(file) for file, _ in members], [label for _, label in members if label is not None], names


def _of_numbers(tokens: Tokens, path: Path, part: str | None) -> Split:
    """Tokens as numbers, in a ``.npy`` file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    arrays = read_arrays(path)
    x = arrays.get(X)
    if x is None or len(arrays) > 1 or x.dtype.kind not in "iu" or x.ndim != 2 or not x.size:
        raise InputError(f"{path}: expected one array x of tokens, integers (N, T)")
    if x.shape[1] != tokens.length:
        raise InputError(f"{path}: x has {x.shape[1]} numbers a sequence, but the run's have {tokens.length}")
    if x.max() >= tokens.num_tokens:  # before it is int64, in which large ones are negative
        raise InputError(f"{path}: x holds {x.max()}, but the run's tokens are below {tokens.num_tokens}")
    numbers: Tensor = torch.from_numpy(x.astype(np.int64))
    tokens.check_tokens(numbers, str(path))
    return Split({X: numbers[_places(len(numbers), path, part)]}, integers=True, name=str(path))


def _places(count: int, path: Path, part: str | None) -> list[int]:
    """Which of so many data a part is, as files without parts are split; all, if none is asked for."""
    if part is None:
        return list(range(count))
    order = random_order(count)
    _check_part(path, part, order)
    return order[part].tolist()


def _check_part(path: Path, part: str, parts: Any) -> None:
    if part not in parts:
        raise InputError(f"{path}: has no {part} part; it has: {', '.join(parts)}")
