"""``pyro-vae train`` and ``pyro-vae resume``: a training from a recipe or configuration, and its continuation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pyro_vae.cli.parsing import add_trust, make_parser, parse, run_parser
from pyro_vae.cli.training import parse_training
from pyro_vae.errors import UsageError, exit_status
from pyro_vae.recording import Compile
from pyro_vae.runs import Run
from pyro_vae.runs.config import load_configured_data
from pyro_vae.sweeps.plan import is_sweep


def train(arguments: Sequence[str]) -> None:
    """Train a recipe, or a YAML file of one's own, into a new run directory."""
    parser = make_parser("train", train.__doc__)
    parser.add_argument("recipe", help="a recipe's name (see pyro-vae recipes), or a .yaml file of one's own")
    parser.add_argument("--out", type=str, required=True, help="the run directory to make")
    add_trust(parser, "of a .yaml file")
    namespace = parse_training(parser, arguments, "pyro-vae train RECIPE --out DIR")
    data = load_configured_data(namespace)
    config = namespace.clone(with_meta=False)
    out = config.pop("out")
    for name in ("recipe", "trust"):
        config.pop(name)
    if not out:
        raise UsageError("--out is empty: say the run directory to make")
    run = Run.create(out, config, arguments[0], data)
    logging.info("%s", data.description)
    train_run(run, data, resume=False)


def resume(arguments: Sequence[str]) -> None:
    """Go on with an interrupted run, to the result that it would have had; or with a sweep."""
    parser = run_parser("resume", resume.__doc__)
    parser.add_argument("--jobs", type=int | None, default=None, help="of a sweep: how many runs at once (1)")
    known: dict[str, tuple[type | Any, str]] = {
        "fit.epochs": (int, "train for more epochs, also where training had ended"),
        "fit.checkpoint_every": (float, "seconds between checkpoints"),
        "fit.device": (str, "another device"),
        "fit.num_devices": (int, "data-parallel processes"),
        "fit.num_nodes": (int, "machines with num_devices processes each"),
        "fit.num_workers": (int, "processes that read a map-style dataset ahead of training"),
        "fit.compile": (Compile, "how steps are run"),
        "fit.logger": (str, "csv, tensorboard, or both"),
        "fit.log_images_every": (int, "epochs between pictures for loggers"),
        "data.name": (str, "where the data are now"),
        "data.root": (str, "where the files of a registered dataset are now"),
    }
    for name, (kind, text) in known.items():
        parser.add_argument(f"--{name}", type=kind | None, default=None, help=text)
    options = parse(parser, arguments)
    if is_sweep(options.dir):
        from pyro_vae.cli.sweep import go_on

        changed = [name for name in known if options[name] is not None]
        if changed:
            raise UsageError(f"{options.dir} is a sweep, whose runs cannot change: leave --{changed[0]} out")
        go_on(options.dir, options.jobs or 1, options.trust)
        return
    if options.jobs is not None:
        raise UsageError(f"--jobs is of a sweep, and {options.dir} is none")
    run = Run(options.dir, trust=options.trust)
    for name in known:
        section, key = name.split(".")
        if options[name] is not None:
            run.change(**{section: {key: options[name]}})
    train_run(run, run.data(), resume=True)


def train_run(run: Run, data: Any, resume: bool) -> None:
    """Train a run, or go on with it, and say in the log how it ended; a signal ends the process."""
    try:
        result = run.train(data, resume=resume)
    except KeyboardInterrupt as error:
        logging.warning("%s; go on with: pyro-vae resume %s", str(error) or "interrupted", run.path)
        raise SystemExit(exit_status(error)) from None
    logging.info(
        "trained %d epochs in %.0f s (%s); weights of epoch %d are in %s",
        result.epochs,
        result.seconds,
        result.stopped,
        result.best_epoch or result.epochs,
        run.path / "model.safetensors",
    )
