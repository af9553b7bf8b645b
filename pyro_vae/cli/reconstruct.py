"""``pyro-vae reconstruct``: of a run's data, or of files that a user brings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.cli.context import said_context
from pyro_vae.cli.inputs import given_data, of_files
from pyro_vae.cli.output import savez
from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.cli.tokens import (
    add_choices,
    check_of_tokens,
    choices,
    read_things,
    write_reconstructions,
)
from pyro_vae.data.images import shown
from pyro_vae.data.sources.arrays import ARRAYS
from pyro_vae.errors import InputError, positive
from pyro_vae.programs.context import X
from pyro_vae.programs.program import Batch
from pyro_vae.runs import Run
from pyro_vae.runs.measurements import SplitName
from pyro_vae.training.batches import derived_seed

NUM = 16
MOST_SHOWN = 16  # data in the figure
CHUNK = 100  # data at once
FOLDER = "reconstructions"  # of WAV files


def reconstruct(arguments: Sequence[str]) -> None:
    """Send data, or files of one's own, through the latents and back: pictures, arrays, sound, texts.

    Of tokens (texts, melodies), from the mean of q(z | x) and each token the most probable one given those before it,
    if nothing else is said.
    """
    import numpy as np

    from pyro_vae.data import Split

    parser = run_parser("reconstruct", reconstruct.__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="files in place of the run's data: images, WAV, texts, …")
    parser.add_argument(
        "--text", type=str, action="append", default=None, help="of a run of texts: one in place of its data; or again"
    )
    parser.add_argument(
        "--draws", type=int | None, default=None, help="of tokens: so many of each, from draws z ~ q(z | x)"
    )
    add_choices(parser)
    parser.add_argument("--split", type=SplitName | None, default=None, help="which part of the run's data (test)")
    parser.add_argument("--num", type=int | None, default=None, help=f"how many of them, at even distances ({NUM})")
    parser.add_argument("--seed", type=int, default=0, help="of the draws of the latents")
    parser.add_argument(
        "--y",
        type=str | None,
        default=None,
        help="context of a conditional model, in place of the data's own: a label (7) or a class's name, or several "
        "that take turns (0,1,2)",
    )
    options = parse(parser, arguments)
    how = choices(options)
    run = Run(options.dir, trust=options.trust)
    pictures, sounds = run.file("figures"), run.file(FOLDER)
    model, guide = run.stage_one()  # a learned prior has no part in it
    tokens = run.tokens
    check_of_tokens(tokens, {"--text": options.text, "--draws": options.draws, "--beams": options.beams})
    own = options.files or options.text
    if own:
        if options.split is not None or options.num is not None:
            raise InputError(
                "--split and --num choose among the run's data; leave them out where files are given, or texts"
            )
        if tokens is not None:
            stems, batch = read_things(run, tokens, options.text or [], options.files)
        else:
            stems, batch = _of_files(run, options.files)
        names: Sequence[str] = stems
    else:
        stems, names, batch = _of_data(run, options.split or "test", NUM if options.num is None else options.num)
    batch |= said_context(run, model, guide, [*batch], len(batch[X]), options.y)
    if tokens is not None:
        made, words = _of_tokens(model, guide, batch, options.draws, options.seed, how)
        write_reconstructions(run, tokens, batch, names, stems, made, options.draws is not None, words)
        return
    mean = _reconstructed(model, guide, Split(batch, missing=True, name="data"), options.seed, **how)  # (n, *shape)
    arrays = {"name": np.array(names), **{key: value.cpu().numpy() for key, value in batch.items()}}
    arrays["x.mean"] = mean.numpy()
    savez(run.path / "reconstructions.npz", arrays)
    if run.sound is not None:
        print(_write_sounds(run, sounds, stems, batch[X].cpu(), mean))
    _draw(run, pictures, names, batch, mean)


def _of_files(run: Run, files: Sequence[Path]) -> tuple[list[str], dict[str, Tensor]]:
    """Names of what is in files, and the data: an array file holds several, with what they belong to by name."""
    if len(files) > 1 or files[0].suffix.lower() not in ARRAYS:
        return _names(files), of_files(run, files).batch(slice(None))
    batch = given_data(run, [str(files[0])]).batch(slice(None))
    digits = len(str(len(batch[X]) - 1))
    return [f"{shown(files[0].stem)}-{i:0{digits}d}" for i in range(len(batch[X]))], batch


def _names(files: Sequence[Path]) -> list[str]:
    """The files' names without suffix; of equal ones from different folders, the later ones with a number."""
    names: list[str] = []
    taken: set[str] = set()
    for file in files:
        stem = shown(file.stem)
        candidates = [stem, *(f"{stem}-{i}" for i in range(2, len(files) + len(taken) + 2))]
        name = next(name for name in candidates if not {name, f"{name}.data"} & taken)
        names.append(name)
        taken |= {name, f"{name}.data"}
    return names


def _of_data(run: Run, part: str, num: int) -> tuple[list[str], Sequence[str], dict[str, Tensor]]:
    """Names for files, names of the data (the same, if they have none), and the data."""
    from pyro_vae.plots.images import evenly

    positive("--num", num)
    split = getattr(run.data(), part)
    if split is None:
        raise InputError(f"the run's data have no {part} part; choose another --split")
    index = evenly(len(split), num)
    digits = len(str(len(split) - 1))
    some = split.fixed(index)
    stems = [f"{part}-{i:0{digits}d}" for i in index.tolist()]
    return stems, some.names or stems, some.batch(slice(None))


def _of_tokens(
    model: nn.Module, guide: nn.Module, batch: dict[str, Tensor], draws: int | None, seed: int, how: dict[str, Any]
) -> tuple[Tensor, str]:
    """What is made of tokens ``(n, T)`` from the mean of q(z | x), or draws of it, ``(n, draws, T)``; how, in words."""
    from pyro_vae.data import Split
    from pyro_vae.evaluation.encoding import has_latents
    from pyro_vae.plots.tokens import chosen

    split = Split(batch, integers=True, name="data")
    if not has_latents(model, guide, split):
        raise InputError("the model has no latents, through which data could be sent; it can be sampled and measured")
    seeds = [seed] if draws is None else [derived_seed(seed, i) for i in range(positive("--draws", draws))]
    made, words = zip(
        *(chosen(partial(_reconstructed, model, guide, split, seed, at_mean=draws is None), how) for seed in seeds),
        strict=True,
    )
    return torch.stack(made, 1), words[0]


def _reconstructed(model: nn.Module, guide: nn.Module, split: Any, seed: int, **how: Any) -> Tensor:
    from pyro_vae.evaluation.generate import reconstruct as through_latents
    from pyro_vae.programs.checks import check_data
    from pyro_vae.programs.program import as_programs

    check_data(*as_programs(model, guide), split)
    means = [
        through_latents(model, guide, batch, seed=derived_seed(seed, chunk), **how)
        for chunk, batch in enumerate(split.batches(CHUNK))
    ]
    return torch.cat(means)


def _write_sounds(run: Run, folder: Path, names: Sequence[str], x: Tensor, mean: Tensor) -> Path:
    """One WAV file for what was made of each datum, and one for the datum itself as the model was given it."""
    from pyro_vae.data.wav import write_wavs

    waves = {name: wave[0] for name, wave in zip(names, run.sound.decode(mean), strict=True)}
    data = {f"{name}.data": wave[0] for name, wave in zip(names, run.sound.decode(x), strict=True)}
    write_wavs(folder, waves | data, run.sound.sample_rate)
    return folder


def _draw(run: Run, folder: Path, names: Sequence[str], batch: Batch, mean: Tensor) -> None:
    from pyro_vae.plots.reconstruction import pairs
    from pyro_vae.plots.registry import saved_if_applicable
    from pyro_vae.plots.spectrogram import pairs_of_spectrograms

    title = "Reconstructions, mean of p(x | z) with z ~ q(z | x)"
    if len(mean) > MOST_SHOWN:
        logging.info("the figure shows the first %d of %d", MOST_SHOWN, len(mean))
        names, mean = names[:MOST_SHOWN], mean[:MOST_SHOWN]
        batch = {name: value[:MOST_SHOWN] for name, value in batch.items()}
    names = [name.replace("$", r"\$") for name in names]  # no formulas
    if run.sound is None:
        draw = partial(pairs, batch, mean, title, run.pictures)
    else:
        draw = partial(pairs_of_spectrograms, batch[X].cpu(), mean, run.sound, title, names)
    if saved_if_applicable(draw, picture := folder / "reconstruction.png"):
        print(picture)
