"""``pyro-vae refit-guide``: a run like another one, with a guide that has been fitted to its model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pyro_vae.cli.parsing import directory_first, parse, parse_over, run_parser
from pyro_vae.cli.train import train_run
from pyro_vae.errors import InputError, UsageError
from pyro_vae.runs import Run
from pyro_vae.runs.fixed_model import (
    KEPT,
    SECTIONS,
    add_refit_arguments,
    check_can_be_refitted,
    parse_refit_config,
)
from pyro_vae.runs.learned_priors import prior_folders
from pyro_vae.runs.prior_stage import check_ended


def refit_guide(arguments: Sequence[str]) -> None:
    """Fit a fresh guide to a trained run's model, which stays as it is, into a run that can be measured."""
    parser = run_parser("refit-guide", refit_guide.__doc__)
    parser.add_argument("--out", type=str, required=True, help="the run directory to make, beside DIR")
    add_refit_arguments(parser)
    arguments = directory_first(arguments)
    if not arguments or {"-h", "--help"} & set(arguments):
        parse(parser, arguments)
    if arguments[0].startswith("-"):
        raise UsageError(f"DIR comes first: {parser.prog} DIR --out NEW [--guide … --fit.epochs …]")
    run = Run(arguments[0], trust="--trust" in arguments)
    read = partial(parse_refit_config, _usual(run), f"configuration of {run.path}", trust=run.trust)
    options = parse_over(parser, arguments, read)
    if not options.out:
        raise UsageError("--out is empty: say the run directory to make")
    out = Path(options.out)
    check_can_be_refitted(run.config, run.path, out, [folder.name for folder in prior_folders(run.path)])
    if options.fit.num_devices > 1 or options.fit.num_nodes > 1:
        raise InputError("fit.num_devices: a guide is refitted by one process on one device")
    check_ended(run)
    config = run.config.clone()
    config.pop("first", None)
    for section in SECTIONS:
        config[section] = options[section]
    data = run.data()
    made = Run.create(out, config, f"{run.recipe}, its guide refitted", data, model_of=run)
    logging.info("the model of %s stays as it is; a fresh %s is fitted to it", run.path, config.guide.class_path)
    train_run(made, data, resume=False)


def _usual(run: Run) -> dict[str, Any]:
    """What holds where the command line says nothing: the run's guide, the ELBO, and training's own defaults."""
    config = run.config.as_dict()
    fit = {name: config["fit"][name] for name in KEPT if config["fit"].get(name) is not None}
    return {"guide": config.get("guide"), "fit": fit, "seed": config["seed"]}
