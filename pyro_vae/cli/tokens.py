"""What commands say and write of tokens: texts, melodies. Their kind knows how they are read and written."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from pyro_vae.cli.output import savez
from pyro_vae.cli.texts import of_texts
from pyro_vae.data.images import shown
from pyro_vae.data.tokens import Tokens
from pyro_vae.errors import InputError, printable
from pyro_vae.files import user_path
from pyro_vae.programs.context import X
from pyro_vae.runs import Run

CHOICES = ("temperature", "top_k", "top_p", "beams")
MADE = "reconstruction"  # names of arrays, files and columns
OURS = (".wav", ".mid", ".gif")  # files that are one a datum
MOST_ROWS, MOST_COLUMNS = 16, 3  # in a picture


def add_choices(parser: ArgumentParser) -> None:
    """How tokens are chosen where they are not simply drawn; if nothing is said, greedily."""
    parser.add_argument(
        "--temperature", type=float | None, default=None, help="draw tokens at it: below 1 tamer, above 1 bolder"
    )
    parser.add_argument("--top-k", type=int | None, default=None, help="draw each token among the so many best")
    parser.add_argument("--top-p", type=float | None, default=None, help="draw among the best that have so much")
    add_beam(parser)


def add_beam(parser: ArgumentParser) -> None:
    """The width of a search for the most probable sequence."""
    parser.add_argument(
        "--beams", type=int | None, default=None, help="of tokens: the most probable sequence, by a search this wide"
    )


def choices(options: Namespace) -> dict[str, Any]:
    """How tokens are chosen, as arguments of :func:`~pyro_vae.evaluation.decode`; empty: nothing is said.

    Raises:
        InputError: for a search together with draws.
    """
    said = {name: getattr(options, name) for name in CHOICES if getattr(options, name) is not None}
    check_beam(said)
    return said


def check_beam(said: Mapping[str, Any]) -> None:
    """Check that a search is not to be a draw as well.

    Raises:
        InputError: if it is.
    """
    if said.get("beams") is not None and (said.get("top_k"), said.get("top_p")) != (None, None):
        raise InputError("--beams searches among all tokens: leave out --top-k and --top-p")


def check_of_tokens(tokens: Tokens | None, said: Mapping[str, Any]) -> None:
    """Check that options of tokens are said of tokens.

    Raises:
        InputError: if the run's data are no tokens, with the option's name.
    """
    if tokens is None and (given := [name for name, value in said.items() if value]):
        raise InputError(f"{given[0]}: the run's data are no tokens (texts, melodies)")


def read_things(
    run: Run, tokens: Tokens, texts: Sequence[str], files: Sequence[Path]
) -> tuple[list[str], dict[str, Tensor]]:
    """Texts of the command line and files as a batch, and what they are called.

    Args:
        run: whose data they are to be like.
        tokens: how they are written.
        texts: one a datum.
        files: with one or several each.

    Returns:
        names, unique, and x ``(N, T)`` with what else all of them have, such as labels.

    Raises:
        InputError, CorruptFileError: naming the text or the file that cannot be read, or is too long.
    """
    names = [f"text-{i + 1}" for i in range(len(texts))]
    batches = [{X: tokens.encode(texts)}] if texts else []
    for file in files:
        split = of_texts(run, user_path(str(file)))
        stem = shown(file.stem)
        names += [stem] if len(split) == 1 else [f"{stem}-{i + 1}" for i in range(len(split))]
        batches.append(split.batch(slice(None)))
    for i, name in enumerate(names):
        number = 2
        while names[i] in names[:i]:
            names[i], number = f"{name}.{number}", number + 1
    common = [key for key in batches[0] if all(key in batch for batch in batches)]
    return names, {key: torch.cat([batch[key] for batch in batches]) for key in common}


def write_reconstructions(
    run: Run,
    tokens: Tokens,
    batch: Mapping[str, Tensor],
    names: Sequence[str],
    stems: Sequence[str],
    made: Tensor,
    drawn: bool,
    words: str,
) -> None:
    """Print what was made of data, and write it: arrays, what other programs open, a picture of the first.

    Args:
        run: where to.
        tokens: what the integers stand for.
        batch: the data, x ``(n, T)`` among them.
        names: of the data.
        stems: the same, for files.
        made: tokens ``(n, k, T)``.
        drawn: whether they were made of k draws of q(z | x); else of its mean, and k is 1.
        words: how tokens were chosen (:func:`pyro_vae.plots.tokens.chosen`).

    Raises:
        InputError: if a file cannot be written.
    """
    from pyro_vae.plots.registry import save_figure
    from pyro_vae.plots.tables import token_table

    x, count = batch[X].cpu(), made.shape[1]
    texts = tokens.decode(made.flatten(0, 1))
    rows = []
    for i, (name, datum) in enumerate(zip(names, tokens.decode(x), strict=True)):
        rows += [(name, datum), *(("", f"-> {text}") for text in texts[i * count : (i + 1) * count])]
    print_rows(rows)
    arrays = {"name": np.array(names), **{key: value.cpu().numpy() for key, value in batch.items()}}
    savez(run.path / f"{MADE}s.npz", arrays | {MADE: made.numpy()})
    several = [f"{stem}-{i + 1}" if count > 1 else stem for stem in stems for i in range(count)]
    for folder, values, called in ((f"{MADE}s", made.flatten(0, 1), several), (f"{MADE}s.data", x, stems)):
        for file in tokens.write(run.file(folder), values, called):
            print(file)
    titles = [MADE] if count == 1 else [f"{MADE} {i + 1}" for i in range(min(count, MOST_COLUMNS))]
    columns = {"data": x[:MOST_ROWS]} | {title: made[:MOST_ROWS, i] for i, title in enumerate(titles)}
    source = "draws z ~ q(z | x)" if drawn else "the mean of q(z | x)"
    title = f"Reconstructions from {source}{words}"
    picture = run.file("figures") / f"{MADE}.png"
    save_figure(token_table(tokens, columns, title, names[:MOST_ROWS]), picture)
    print(picture)


def remove_older(folder: Path, pattern: str, names: Sequence[str]) -> None:
    """Remove files that an earlier call of the same command has left: an unbroken row of numbers, from 0 on.

    Args:
        folder: which may not be there.
        pattern: of the files' names without suffix, with ``{}`` where their number stands.
        names: of those that stay.
    """
    files = [file for file in folder.iterdir() if file.suffix in OURS] if folder.is_dir() else []
    for number in itertools.count():
        row = [file for file in files if re.fullmatch(pattern.format(number), file.stem)]
        if not row:
            return
        for file in row:
            if file.stem not in names and file.is_file():
                file.unlink()


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print what things are called and the things, the things below one another."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, thing in rows:
        print(printable(f"{name:<{width}}  {' '.join(thing.splitlines())}").rstrip())
