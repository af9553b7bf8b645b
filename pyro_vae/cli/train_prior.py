"""``pyro-vae train-prior``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pyro_vae.cli.parsing import add_trust, make_parser, parse, parse_over
from pyro_vae.errors import InputError, UsageError
from pyro_vae.recipes import read_recipe
from pyro_vae.runs import Run
from pyro_vae.runs.learned_priors import add_prior_arguments, parse_prior_config
from pyro_vae.runs.prior_stage import train_priors


def train_prior(arguments: Sequence[str]) -> None:
    """Learn priors over the codes of a trained run, of which they become a part."""
    parser = make_parser("train-prior", train_prior.__doc__)
    named = bool(arguments) and not arguments[0].startswith("-")
    if named:
        parser.add_argument("recipe", help="a prior's recipe (pyro-vae recipes), or a .yaml file of one's own")
    parser.add_argument("--on", type=Path, required=True, help="the run directory")
    parser.add_argument("--site", type=str | None, default=None, help="of this code site only; else of all, one by one")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted one")
    add_trust(parser)
    if not named:
        if "--resume" not in arguments and not {"-h", "--help"} & set(arguments):
            raise UsageError("the recipe comes first: pyro-vae train-prior RECIPE --on DIR [--prior.option value …]")
        options = parse(parser, arguments)
        _train(options, None, "")
        return
    recipe = read_recipe(arguments[0])
    trust = "--trust" in arguments
    if trust and arguments[0].endswith((".yaml", ".yml")):
        sys.path[:0] = ["", str(Path(arguments[0]).resolve().parent)]  # classes of one's own beside the file
    add_prior_arguments(parser)
    options = parse_over(parser, arguments, partial(parse_prior_config, recipe, f"recipe {arguments[0]}", trust=trust))
    if options.resume:
        raise InputError(
            "--resume goes on with the recipe and options that it was begun with: "
            f"pyro-vae train-prior --on {options.on} --resume"
        )
    config = options.clone(with_meta=False)
    for name in ("recipe", "on", "site", "resume", "trust"):
        config.pop(name)
    _train(options, config, arguments[0])


def _train(options: object, config: object, recipe: str) -> None:
    on, site, resume, trust = (getattr(options, name) for name in ("on", "site", "resume", "trust"))
    try:
        results = train_priors(Run(on, trust=trust), config, recipe, site=site, resume=resume)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        logging.warning("interrupted and saved; go on with: pyro-vae train-prior --on %s --resume", on)
        raise SystemExit(130) from None
    for name, result in results.items():
        logging.info("prior of '%s': %d epochs in %.0f s (%s)", name, result.epochs, result.seconds, result.stopped)
