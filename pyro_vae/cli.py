"""The ``pyro-vae`` command."""

from __future__ import annotations

import difflib
import json
import logging
import re
import sys
import time
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import torch
from jsonargparse import ArgumentParser

from pyro_vae import __version__
from pyro_vae.data import dataset_names
from pyro_vae.errors import InputError, NonFiniteLossError, unknown
from pyro_vae.recipes import Run, read_recipe, recipe_names, recipe_text
from pyro_vae.recipes.experiment import (
    add_experiment_arguments,
    load_configured_data,
    parse_config,
)

SplitName = Literal["train", "validation", "test"]


def train(arguments: Sequence[str]) -> None:
    """Train a recipe, or a YAML file of one's own, into a new run directory."""
    parser = _parser("train", train.__doc__)
    parser.add_argument("recipe", help="a recipe's name (see pyro-vae recipes), or a .yaml file of one's own")
    parser.add_argument("--out", type=Path, required=True, help="the run directory to make")
    add_experiment_arguments(parser)
    if not arguments or arguments[0].startswith("-"):
        if "--help" in arguments or "-h" in arguments:
            parser.parse_args(list(arguments))
        raise InputError("the recipe comes first: pyro-vae train RECIPE --out DIR [--section.option value …]")
    recipe = read_recipe(arguments[0])
    if arguments[0].endswith((".yaml", ".yml")):
        sys.path[:0] = ["", str(Path(arguments[0]).resolve().parent)]  # classes of one's own beside the file
    if any(a in ("-h", "--help") or re.search(r"\.help\b", a) for a in arguments):
        parser.parse_args(list(arguments))
    bare = _silent_parser()
    defaults = parse_config(bare, recipe, f"recipe {arguments[0]}")
    namespace = _parse(parser, arguments, defaults)
    data = load_configured_data(namespace)
    config = namespace.clone(with_meta=False)
    out = config.pop("out")
    config.pop("recipe")
    run = Run.create(out, config, arguments[0], data)
    logging.info("%s", data.description)
    _train(run, data, resume=False)


def resume(arguments: Sequence[str]) -> None:
    """Go on with an interrupted run, to the result that it would have had."""
    parser = _run_parser("resume", resume.__doc__)
    options = _parse(parser, arguments)
    run = Run(options.dir, trust=options.trust)
    _train(run, run.data(), resume=True)


def _train(run: Run, data: Any, resume: bool) -> None:
    try:
        result = run.train(data, resume=resume)
    except KeyboardInterrupt:
        logging.warning("interrupted and saved; go on with: pyro-vae resume %s", run.path)
        raise SystemExit(130) from None
    logging.info(
        "trained %d epochs in %.0f s (%s); weights of epoch %d are in %s",
        result.epochs,
        result.seconds,
        result.stopped,
        result.best_epoch or result.epochs,
        run.path / "model.safetensors",
    )


def evaluate(arguments: Sequence[str]) -> None:
    """Measure a trained run: importance-weighted log-likelihood, ELBO and its parts."""
    from pyro_vae.evaluation import elbo, log_likelihood

    parser = _run_parser("evaluate", evaluate.__doc__)
    parser.add_argument("--particles", type=int, default=5000, help="importance samples per datum")
    parser.add_argument("--split", type=SplitName, default="test", help="which part of the data")
    parser.add_argument("--limit", type=int | None, default=None, help="measure the first so many data only")
    parser.add_argument("--memory_mib", type=int, default=512, help="memory budget of a chunk")
    parser.add_argument("--seed", type=int, default=0, help="of the particles")
    parser.add_argument("--device", type=str, default="auto", help="auto (a GPU if there is one), cpu, cuda, …")
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")
    options = _parse(parser, arguments)
    run = Run(options.dir, trust=options.trust)
    model, guide = run.programs()
    split = getattr(run.data(), options.split)
    if split is None:
        raise InputError(f"the run's data have no {options.split} part")
    if options.limit is not None:
        split = split.subset(options.limit)
    started = time.monotonic()
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    common = {"seed": options.seed, "device": automatic if options.device == "auto" else options.device}
    likelihood = log_likelihood(
        model,
        guide,
        split,
        num_particles=options.particles,
        memory_budget=options.memory_mib * 2**20,
        progress=not options.json,
        **common,
    )
    bound = elbo(model, guide, split, **common).to_dict()
    result = {
        **likelihood.to_dict(),
        "split": options.split,
        "elbo": bound["elbo"],
        "elbo_standard_error": bound["standard_error"],
        "reconstruction": bound["reconstruction"],
        "kl": bound["kl"],
        "seconds": round(time.monotonic() - started, 2),
    }
    run.write_json(f"evaluation-{options.split}.json", result)
    print(json.dumps(result) if options.json else _table(run, result))


def _table(run: Run, result: dict[str, Any]) -> str:
    rows = [
        ("ELBO", f"{result['elbo']:.2f} +- {result['elbo_standard_error']:.2f} nats"),
        (
            f"log-likelihood (K = {result['num_particles']})",
            f"{result['log_likelihood']:.2f} +- {result['standard_error']:.2f} nats",
        ),
        ("bits per dimension", f"{result['bits_per_dim']:.4f}"),
        ("effective sample size", f"{result['effective_sample_size']:.1f}"),
    ]
    rows += [(f"reconstruction of {k}", f"{v:.2f} nats") for k, v in result["reconstruction"].items()]
    rows += [(f"KL of {k}", f"{v:.2f} nats") for k, v in result["kl"].items()]
    rows += [("seconds", f"{result['seconds']:.1f}")]
    width = max(len(name) for name, _ in rows)
    title = f"{run.path} on {result['num_data']} {result['split']} data (+- one standard error over data)"
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def sample(arguments: Sequence[str]) -> None:
    """Draw from a trained model: a picture, and the arrays."""
    import numpy as np

    from pyro_vae.evaluation.figures import prior_samples, save_figure
    from pyro_vae.evaluation.generate import sample as draw
    from pyro_vae.files import write_atomically

    parser = _run_parser("sample", sample.__doc__)
    parser.add_argument("--num", type=int, default=64, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    options = _parse(parser, arguments)
    if options.num < 1:
        raise InputError(f"--num must be a positive integer, got {options.num}")
    run = Run(options.dir, trust=options.trust)
    model, _ = run.programs()
    values = {k: v.numpy() for k, v in draw(model, options.num, seed=options.seed).items()}
    arrays, picture = run.path / "samples.npz", run.path / "figures" / "samples.png"
    write_atomically(arrays, lambda path: np.savez_compressed(path, **values))
    print(arrays)
    figure = prior_samples(model, n=options.num, seed=options.seed)
    if figure is not None:
        save_figure(figure, picture)
        print(picture)


def figures(arguments: Sequence[str]) -> None:
    """Draw every figure that applies to a run, and print where they are."""
    from pyro_vae.evaluation.figures import draw_all

    parser = _run_parser("figures", figures.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = _parse(parser, arguments)
    run = Run(options.dir, trust=options.trust)
    model, guide = run.programs()
    for path in draw_all(model, guide, run.data(), run.records(), run.path / "figures", seed=options.seed):
        print(path)


def recipes(arguments: Sequence[str]) -> None:
    """List the recipes, or print one: pyro-vae recipes NAME."""
    parser = _parser("recipes", recipes.__doc__)
    parser.add_argument("name", nargs="?", type=str, help="print this recipe's YAML")
    options = _parse(parser, arguments)
    print(recipe_text(options.name) if options.name else _columns(recipe_names()))


def datasets(arguments: Sequence[str]) -> None:
    """List the datasets that --data.name knows; a path to .npz, .npy or a folder of images works too."""
    _parse(_parser("datasets", datasets.__doc__), arguments)
    print(_columns(dataset_names()))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    f.__name__: f for f in (train, resume, evaluate, sample, figures, recipes, datasets)
}


def _columns(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows.items())


def _parser(command: str, description: str | None) -> ArgumentParser:
    name = f"pyro-vae {command}"
    return ArgumentParser(prog=name, description=description, exit_on_error=False, allow_abbrev=False)


def _silent_parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    add_experiment_arguments(parser)
    return parser


def _run_parser(command: str, description: str | None) -> ArgumentParser:
    parser = _parser(command, description)
    parser.add_argument("dir", type=Path, help="the run directory")
    parser.add_argument(
        "--trust", action="store_true", help="run the code of classes outside pyro_vae that the configuration names"
    )
    return parser


def _parse(parser: ArgumentParser, arguments: Sequence[str], defaults: Any = None) -> Any:
    """Parse, with the nearest name for an option that is not known."""
    try:
        return parser.parse_args(list(arguments), namespace=defaults)
    except (ArgumentError, TypeError, ValueError) as error:
        raise _explained(error, parser, arguments, defaults) from error


def _explained(error: Exception, parser: ArgumentParser, arguments: Sequence[str], defaults: Any) -> InputError:
    """The parser's error; where an option is unknown, in one line with the nearest known one."""
    known = {o for action in parser._actions for o in action.option_strings}
    if defaults is not None:
        known |= {"--" + k.replace(".init_args", "") for k in defaults.keys(branches=True)}
    given = [a.split("=")[0] for a in arguments if a.startswith("--")]
    refused = re.search(r"Option '([\w.]+)' is not accepted", str(error))
    stranger = next((o for o in given if o not in known and (o in str(error) or refused)), None)
    if stranger is None:
        return InputError(str(error))
    near = difflib.get_close_matches(stranger, sorted(known), n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    return InputError(f"unknown option {stranger}.{hint} All options: {parser.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2: something the user can put right)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=False)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: pyro-vae COMMAND …   (pyro-vae COMMAND --help)\n")
        print(_columns({n: (f.__doc__ or "").splitlines()[0] for n, f in COMMANDS.items()}))
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    try:
        if arguments[0] not in COMMANDS:
            raise unknown("command", arguments[0], COMMANDS)
        COMMANDS[arguments[0]](arguments[1:])
    except (InputError, NonFiniteLossError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
