"""``pyro-vae sample``: draws of a run, given a context or texts where its model takes them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor, nn

from pyro_vae.cli.clips import CONTEXTS, sample_clips
from pyro_vae.cli.context import describe_y, example_y, parse_y
from pyro_vae.cli.given import in_rows, read_given
from pyro_vae.cli.output import savez
from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.cli.tokens import CHOICES, add_beam, check_beam, print_rows, remove_older
from pyro_vae.data import Sound
from pyro_vae.data.actions import ACTIONS
from pyro_vae.data.tokens import Tokens
from pyro_vae.errors import InputError, positive
from pyro_vae.programs.context import X, declared_context, needed_to_generate, takes
from pyro_vae.runs import Run


def texts_of(given: Sequence[str]) -> list[str]:
    """The texts of the command line: of one option or several, with ``;`` between them."""
    return [text.strip() for option in given for text in option.split(";")]


def sample_texts(
    run: Run,
    model: nn.Module,
    texts: Sequence[str],
    num: int,
    best_of: int,
    seed: int,
    batch: dict[str, Tensor],
    batch_size: int,
    how: dict[str, Any],
) -> None:
    """Draw images of texts, and write the arrays and a contact sheet of the best, the best first.

    Args:
        run: the run.
        model: its model.
        texts: what to draw.
        num: images of each text.
        best_of: how many are drawn for each that is kept.
        seed: of the draws.
        batch: further context, one row each.
        batch_size: images drawn at once.
        how: temperature, top_k, top_p, guidance, scales.

    Raises:
        InputError: if the run knows no texts, a text is refused, or there is nothing to rank by.
    """
    import numpy as np

    from pyro_vae.plots.registry import saved_if_applicable
    from pyro_vae.text_to_image.contact_sheet import contact_sheet
    from pyro_vae.text_to_image.ranker import load_ranker
    from pyro_vae.text_to_image.ranking import draw_best

    if best_of < 1:
        raise InputError(f"--best-of must be a positive integer, got {best_of}: one of so many is kept")
    tokenizer = run.tokenizer()
    if "text" not in declared_context(model):
        raise InputError(f"the prior over texts of {run.path} is not trained to its end: pyro-vae train-prior --resume")
    tokenizer.encode(texts)  # refused ones, before anything is drawn
    scorer = load_ranker(run)
    if scorer is None:
        train = f"pyro-vae train-ranker {run.path}"
        if best_of > 1:
            raise InputError(f"{run.path} has no ranker that could tell the best of {best_of}: {train}, or --best-of 1")
        logging.info("no ranker: the images have no scores, and no order (%s)", train)
    if num * best_of > 1:
        logging.info("%d texts, %d images of each, of which %d are kept", len(texts), num * best_of, num)
    best = draw_best(
        model, tokenizer, texts, num, best_of_many=best_of, scorer=scorer, seed=seed, batch=batch,
        batch_size=batch_size, **how,
    )  # fmt: skip
    values = {name: value.numpy() for name, value in best.sites.items()}
    values |= {"x.mean": best.images.numpy(), "text": np.array(texts)}
    if best.scores is not None:
        values["score"] = best.scores.numpy()
    arrays, picture = run.path / "samples.npz", run.file("figures/samples.png")
    savez(arrays, values)
    title = f"Best of {best_of}" if best_of > 1 else "Samples"
    title += ": mean of p(x | z), z ~ p(z | text)"
    if saved_if_applicable(lambda: contact_sheet(best.images, texts, best.scores, title), picture):
        print(picture)


NUM, NUM_GIVEN = 64, 8  # draws; of what is given
SOUNDS = "samples"
NUMBERED = "{:03d}"  # names of files
MOST_SPECTROGRAMS = 64
MOST_ROWS = 32  # things that tokens stand for, in a picture


def sample(arguments: Sequence[str]) -> None:
    """Draw from a trained model: a picture, the arrays, sound as WAV files, texts, melodies."""

    from pyro_vae.evaluation.generate import draw
    from pyro_vae.plots import prior_samples
    from pyro_vae.plots.draws_of_context import draws_of_given
    from pyro_vae.plots.registry import saved_if_applicable

    parser = run_parser("sample", sample.__doc__)
    parser.add_argument(
        "--num", type=int | None, default=None, help=f"how many ({NUM}; of --actions {CONTEXTS} contexts)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--y",
        type=str | None,
        default=None,
        help="context of a conditional model: a label (7) or a class's name (dog), several that take turns (0,1,2), an "
        "attribute vector (0.5,1,0), or several of these (0.5,1,0;1,1,0)",
    )
    parser.add_argument(
        "--given",
        type=str | None,
        default=None,
        help="what a conditional model is given, from a file: a picture, or a .npz with arrays by name; --num draws of "
        "it (8)",
    )
    parser.add_argument(
        "--scale",
        type=str | None,
        default=None,
        help="factors for the latents' prior scales, by site: z1=0.5,z2=0.1",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="of codes' learned prior, or of tokens: below 1 tamer, above bolder",
    )
    parser.add_argument(
        "--top-k", type=int | None, default=None, help="each code, or token, among the so many most probable"
    )
    parser.add_argument(
        "--top-p", type=float | None, default=None, help="the fewest most probable ones that have so much together"
    )
    add_beam(parser)
    parser.add_argument(
        "--guidance", type=float, default=0.0, help="away from codes that fit any text or label: 0 not at all"
    )
    parser.add_argument(
        "--text",
        type=str,
        action="append",
        default=None,
        help="what to draw (a prior over texts); again, or with ; between them, for several; else texts are drawn",
    )
    parser.add_argument(
        "--actions",
        type=str | None,
        default=None,
        help="of clips: what is done at each step after the frames given, e.g. forward*10, or forward*3,right*7; with "
        "; between them, several for each context",
    )
    parser.add_argument("--best-of", type=int, default=1, help="with --text: keep the best of so many, --num times")
    parser.add_argument("--batch-size", type=int, default=64, help="with --text, --actions: drawn at once")
    options = parse(parser, arguments)
    if options.num is None and options.actions is not None:
        options.num = CONTEXTS if options.given is None else 1
    if options.num is None:
        options.num = NUM if options.given is None else NUM_GIVEN
    positive("--num", options.num)
    run = Run(options.dir, trust=options.trust)
    pictures, sounds = run.file("figures"), run.file(SOUNDS)
    tokens = run.tokens
    model, _ = run.programs()
    scales = _scales(options.scale)
    how = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "guidance")}
    check_beam({**how, "beams": options.beams})
    how["scales"] = scales
    if options.actions is not None:
        _refuse_beside_actions(options)
        chosen = {name: how[name] for name in ("temperature", "top_k", "top_p")}
        given = None
        if options.given is not None:
            given = in_rows(read_given(model, run.pictures, options.given, said=[ACTIONS]), options.num)
        sample_clips(run, model, options.actions, options.num, options.seed, chosen, given, options.batch_size)
        return
    if options.text is not None:
        if options.given is not None:
            raise InputError("--given and --text both say what is given: say one of them")
        if tokens is not None or options.beams is not None:
            raise InputError("--text is of images that are drawn of a text; of a text's latents: pyro-vae reconstruct")
        if options.y is not None and set(options.y) & set(",;"):
            raise InputError("--text takes one label or attribute vector for all images: one --y")
        context, _ = _context(run, model, options.y, 1)
        texts = texts_of(options.text)
        sample_texts(run, model, texts, options.num, options.best_of, options.seed, context, options.batch_size, how)
        return
    if options.best_of != 1:
        raise InputError("--best-of is of images of a text: say --text, too")
    if options.given is None:
        context, columns = _context(run, model, options.y, options.num)
    else:
        context, columns = _given(run, model, options.given, options.y, options.num), options.num
    num = next((len(value) for name, value in context.items() if name != X), options.num)
    drawn = draw(model, num, seed=options.seed, batch=context, beams=options.beams, **how)
    values = {k: v.cpu().numpy() for k, v in (context | drawn.values).items() if k != X or k in drawn.values}
    arrays, picture = run.path / "samples.npz", pictures / "samples.png"
    savez(arrays, values)
    if tokens is not None:
        _write_tokens(tokens, drawn.mean, sounds, picture, {**how, "beams": options.beams})
        return
    if run.sound is not None:
        _sounds(run.sound, drawn.mean, sounds, picture, columns)
        return
    how |= {"columns": columns, "pictures": run.pictures}
    if options.given is not None:
        draw_given = partial(draws_of_given, context, drawn.mean, options.num, run.data_shape, run.pictures)
        if saved_if_applicable(draw_given, picture):
            print(picture)
        return
    draw_picture = partial(prior_samples, model, n=num, seed=options.seed, batch=context, **how)
    if saved_if_applicable(draw_picture, picture):
        print(picture)


def _refuse_beside_actions(options: Namespace) -> None:
    unused = {"y": None, "scale": None, "beams": None, "guidance": 0.0, "text": None, "best_of": 1}
    for name, default in unused.items():
        if getattr(options, name) != default:
            raise InputError(f"--{name.replace('_', '-')} is not for --actions: leave out either")


def _sounds(sound: Sound, mean: Tensor, folder: Path, picture: Path, columns: int | None) -> None:
    """Write each mean of p(x | z) as ``000.wav``, ``001.wav``, …, and their spectrograms; older ones are removed."""
    from pyro_vae.data.wav import write_wavs
    from pyro_vae.plots.registry import save_figure
    from pyro_vae.plots.spectrogram import sound_grid

    waves = {f"{i:03d}": wave for i, wave in enumerate(sound.decode(mean).squeeze(1))}  # (L,) each
    write_wavs(folder, waves, sound.sample_rate)
    remove_older(folder, NUMBERED, list(waves))
    print(folder)
    shown = mean[:MOST_SPECTROGRAMS]
    save_figure(sound_grid(shown, sound, "Samples from the prior: mean of p(x | z)", columns or 8), picture)
    print(picture)


def _write_tokens(tokens: Tokens, x: Tensor, path: Path, picture: Path, how: dict[str, Any]) -> None:
    """Print what was drawn, and write it as its kind is written, with a picture of the first."""
    from pyro_vae.plots.registry import save_figure
    from pyro_vae.plots.tables import token_table
    from pyro_vae.plots.tokens import said

    names = [f"{i:03d}" for i in range(len(x))]
    print_rows(list(zip(names, tokens.decode(x), strict=True)))
    for file in tokens.write(path, x, names):
        print(file)
    remove_older(path, NUMBERED, names)
    words = said(**{name: how[name] for name in CHOICES})
    save_figure(token_table(tokens, {"samples": x[:MOST_ROWS]}, f"Samples of the model{words}", names), picture)
    print(picture)


def _context(run: Run, model: nn.Module, y: str | None, num: int) -> tuple[dict[str, Tensor], int | None]:
    """What the model is conditioned on, for each sample, and how many columns are to show them (None: any number)."""
    from pyro_vae.plots.images import pick

    needed, declared = needed_to_generate(model), declared_context(model)
    takes_y = "y" in needed or "y" in declared
    sayable = needed in ([], ["y"]) and len(declared["y"].shape if "y" in declared else ()) < 2
    if y is not None and not (takes_y and sayable):
        needs = f"its {', '.join(needed)} are taken from the test data" if needed else "it is not conditional"
        raise InputError(f"--y is not for this model: {needs}; leave it out")
    if y is not None:
        values = parse_y(y, declared.get("y"), classes=run.classes)
        count = len(values)
        columns = count * max(1, round(num**0.5 / count)) if count > 1 else None  # a value to a column
        return {"y": values[torch.arange(num) % count]}, columns
    if not needed:
        if takes(model, "num_samples"):
            return {}, None
        data = run.data()
        return {X: pick(data.test or data.validation or data.train, num)[X]}, None
    if sayable:
        context = declared.get("y")
        example = example_y(context, run.classes)
        raise InputError(f"the model needs y ({describe_y(context)}): say which, e.g. --y {example}")
    data = run.data()
    split = data.test or data.validation or data.train
    context = pick(split, num)
    if run.pictures is not None:  # which may need what the model is not given
        needed = [*needed, *(name for name in context if not takes(model, name))]
    logging.info("%s: taken from %d of the data %s", ", ".join(needed), len(context[X]), split.name)
    return {name: value for name, value in context.items() if name in needed}, None


def _given(run: Run, model: nn.Module, name: str, y: str | None, num: int) -> dict[str, Tensor]:
    """What the model is given as a file says it, for ``num`` draws of each; and y, if that is said beside it."""
    given = in_rows(read_given(model, run.pictures, name), num)
    count = len(next(iter(given.values())))
    declared = declared_context(model).get("y")
    if y is not None:
        if declared is None or "y" in given:
            raise InputError(f"--y is not for this model, or {name} says it: leave it out")
        given["y"] = parse_y(y, declared, count, classes=run.classes)
    elif "y" in needed_to_generate(model) and "y" not in given:
        raise InputError(f"the model needs y ({describe_y(declared)}), too: say --y {example_y(declared, run.classes)}")
    return given


def _scales(text: str | None) -> dict[str, float]:
    """Factors by site, of ``z1=0.5,z2=0.1``."""
    pairs = [pair.partition("=") for pair in text.split(",")] if text else []
    try:
        return {site.strip(): float(factor) for site, _, factor in pairs}
    except ValueError:
        raise InputError(f"--scale takes factors by latent site, e.g. --scale z1=0.5,z2=0.1; got '{text}'") from None
