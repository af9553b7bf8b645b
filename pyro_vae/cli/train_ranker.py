"""``pyro-vae train-ranker``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pyro_vae.cli.parsing import add_trust, make_parser, parse_over
from pyro_vae.errors import InputError
from pyro_vae.recipes import read_recipe
from pyro_vae.runs import Run
from pyro_vae.text_to_image.ranker import add_ranker_arguments, parse_ranker_config
from pyro_vae.text_to_image.ranker import train_ranker as learn


def train_ranker(arguments: Sequence[str]) -> None:
    """Learn which texts belong to which images, to rank a run's samples of texts."""
    parser = make_parser("train-ranker", train_ranker.__doc__)
    parser.add_argument("--on", type=Path, required=True, help="the run directory")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted one")
    add_trust(parser)
    add_ranker_arguments(parser)
    recipe, named = "ranker", bool(arguments) and not arguments[0].startswith("-")
    if named:
        recipe, *arguments = arguments
    options = parse_over(parser, arguments, partial(parse_ranker_config, read_recipe(recipe), f"recipe {recipe}"))
    given = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
    if options.resume and (named or given - {"--on", "--resume", "--trust"}):
        raise InputError(
            "--resume goes on with the recipe and options that it was begun with: "
            f"pyro-vae train-ranker --on {options.on} --resume"
        )
    config = options.clone(with_meta=False)
    for name in ("on", "resume", "trust"):
        config.pop(name)
    try:
        run = Run(options.on, trust=options.trust)
        result = learn(run, None if options.resume else config, resume=options.resume)
    except KeyboardInterrupt:
        logging.warning("interrupted and saved; go on with: pyro-vae train-ranker --on %s --resume", options.on)
        raise SystemExit(130) from None
    logging.info("ranker: %d epochs in %.0f s (%s)", result.epochs, result.seconds, result.stopped)
