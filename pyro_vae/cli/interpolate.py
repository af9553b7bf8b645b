"""``pyro-vae interpolate``: from one datum to another through a run's latent space."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.cli.context import said_context
from pyro_vae.cli.inputs import given_data, of_files
from pyro_vae.cli.output import savez
from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.cli.tokens import add_choices, choices, print_rows, read_things, remove_older
from pyro_vae.data.sources.arrays import ARRAYS
from pyro_vae.data.texts import LINES, TABLES
from pyro_vae.data.tokens import Tokens
from pyro_vae.errors import InputError, NotApplicable
from pyro_vae.evaluation.latent_space import Kind
from pyro_vae.files import user_path
from pyro_vae.programs.context import X, given_names
from pyro_vae.programs.program import Batch
from pyro_vae.runs import Run
from pyro_vae.runs.measurements import part_of

NAME = "interpolation"  # of what is written
NUMBERED = "{:02d}-(datum|[0-9.e-]+)"  # names of files
FILES = (*LINES, *TABLES, *ARRAYS)  # which no text ends in
PLACE = re.compile(r"(train|validation|test):(\d+)")


def interpolate(arguments: Sequence[str]) -> None:
    """Go from one datum to another through latent space: a picture, the arrays, sound, texts.

    Between the means of q(z | x) of the two, in even steps; both ends are shown as they are, too. Latents that are not
    moved, and what has no mean, are drawn with one noise for all steps; tokens are chosen greedily, if nothing is said.
    """
    from pyro_vae.evaluation.latent_space import decode_path, paths_between
    from pyro_vae.plots.tokens import chosen

    parser = run_parser("interpolate", interpolate.__doc__)
    what = "a datum of the run's (test:5, train:0), a file (image, WAV, text, …), or, of a run of texts, a text"
    parser.add_argument("start", type=str, help=what)
    parser.add_argument("end", type=str, help="the same")
    parser.add_argument("--steps", type=int, default=8, help="points on the way, both ends included")
    parser.add_argument("--kind", type=Kind, default="spherical", help="the way: on an arc, or straight")
    parser.add_argument("--seed", type=int, default=0, help="of draws")
    parser.add_argument(
        "--y", type=str | None, default=None, help="context of a conditional model: a label or its name"
    )
    add_choices(parser)
    options = parse(parser, arguments)
    how = choices(options)
    if options.steps < 2:
        raise InputError(f"--steps must be at least 2, for both ends, got {options.steps}")
    run = Run(options.dir, trust=options.trust)
    tokens = run.tokens
    model, guide = run.programs()
    pictures, files = run.file("figures"), run.file(NAME)
    ends = []
    for given in (options.start, options.end):
        batch = _datum(run, tokens, given)
        ends.append(batch | said_context(run, model, guide, [*batch], 1, options.y))
    start, end = ends
    unlike = ", ".join(name for name in given_names(model, start) if not torch.equal(start[name], end[name]))
    if unlike:
        logging.info("all steps are given %s of the first datum, unlike the second's", unlike)
    try:
        path, kind = paths_between(model, guide, start, end, options.steps, kind=options.kind, seed=options.seed)
    except NotApplicable as error:
        raise InputError(f"{run.path}: there is no way between two of its data: {error}") from error
    make = partial(decode_path, model, path, seed=options.seed, batch=start)
    drawn, words = chosen(make, how) if tokens is not None else (make(**how), "")
    made = drawn[0]  # (steps, *event)
    arrays = {"start": start[X][0].cpu().numpy(), "end": end[X][0].cpu().numpy(), "x": made.numpy()}
    savez(run.path / f"{NAME}.npz", arrays | {name: value[0].cpu().numpy() for name, value in path.items()})
    values = torch.cat([start[X].cpu(), made.reshape(-1, *run.data_shape), end[X].cpu()])  # (steps + 2, *shape)
    if tokens is not None:
        _of_tokens(tokens, values, files, pictures / f"{NAME}.png", f"{kind.capitalize()} interpolation{words}")
    else:
        title = f"{kind.capitalize()} interpolation, mean of p(x | z{unlike and f', {unlike} of the first'})"
        _of_numbers(run, values, start, end, files, pictures / f"{NAME}.png", title)


def _datum(run: Run, tokens: Tokens | None, given: str) -> dict[str, Tensor]:
    """One datum as a batch: a place among the run's data, a file, or a text."""
    place = PLACE.fullmatch(given)
    if place is not None:
        split = part_of(run.data(), place[1])
        if int(place[2]) >= len(split):
            raise InputError(f"{given}: the {place[1]} part has {len(split):,} data, 0 to {len(split) - 1:,}")
        return split.fixed(torch.tensor([int(place[2])])).batch(slice(None))
    if tokens is None:
        if user_path(given).suffix.lower() not in ARRAYS:
            return of_files(run, [user_path(given)]).batch(slice(None))
        batch = given_data(run, [given]).batch(slice(None))
        if len(batch[X]) != 1:
            raise InputError(f"{given}: has {len(batch[X]):,} data; give a file with one")
        return batch
    is_file = len(given) < 1000 and bool(Path(given).suffix) and user_path(given).is_file()
    if not is_file and Path(given).suffix.lower() in FILES and len(given.split()) == 1:
        raise InputError(f"{given}: no such file; a text that ends so needs a space before it")
    names, batch = read_things(run, tokens, [] if is_file else [given], [Path(given)] if is_file else [])
    if len(names) != 1:
        raise InputError(f"{given}: has {len(names):,} of them; give a file with one")
    return batch


def _of_tokens(tokens: Tokens, values: Tensor, path: Path, picture: Path, title: str) -> None:
    from pyro_vae.plots.registry import save_figure
    from pyro_vae.plots.tables import token_table
    from pyro_vae.plots.tokens import labels

    names = labels(len(values) - 2)
    print_rows(list(zip(names, tokens.decode(values), strict=True)))
    for file in tokens.write(path, values, _numbered(names)):
        print(file)
    if not tokens.ends:  # what has no end can be played as one
        tokens.write(path, values.reshape(1, -1), ["all"])
    remove_older(path, NUMBERED, _numbered(names))
    save_figure(token_table(tokens, {"": values}, title, names), picture)
    print(picture)


def _of_numbers(run: Run, values: Tensor, start: Batch, end: Batch, folder: Path, picture: Path, title: str) -> None:
    """Write sound, and draw images or curves: of the end's own context the last datum, of the start's all others."""
    from pyro_vae.data.wav import write_wavs
    from pyro_vae.plots.images import grey_range, grid
    from pyro_vae.plots.registry import saved_if_applicable
    from pyro_vae.plots.spectrogram import spectrogram_grid
    from pyro_vae.plots.tokens import labels
    from pyro_vae.plots.view import View

    names = labels(len(values) - 2)
    if run.sound is not None:
        waves = run.sound.decode(values).squeeze(1)  # (steps + 2, L)
        write_wavs(folder, dict(zip(_numbered(names), waves, strict=True)), run.sound.sample_rate)
        remove_older(folder, NUMBERED, _numbered(names))
        print(folder)
        draw = partial(spectrogram_grid, values[None], run.sound, title, titles=names)
    else:

        def draw() -> Any:
            at_start, at_end = (View(run.data_shape, batch, run.pictures) for batch in (start, end))
            shown = torch.cat([at_start(values[None, :-1], 2), at_end(values[None, -1:], 2)], 1)  # (1, steps + 2, ...)
            limits = at_start.limits if run.pictures is not None else grey_range(values[[0, -1]])
            return grid(shown, title, columns=names, limits=limits)

    if saved_if_applicable(draw, picture):
        print(picture)


def _numbered(names: Sequence[str]) -> list[str]:
    """Names of files, in order: ``00-datum``, ``01-0``, …"""
    return [f"{i:02d}-{name}" for i, name in enumerate(names)]
