"""``pyro-vae sweep``: a recipe trained with several seeds and settings, measured, and ranked by validation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pyro_vae.cli.parsing import add_trust, make_parser
from pyro_vae.cli.training import parse_training
from pyro_vae.data import dataset_names
from pyro_vae.errors import InputError, UsageError, exit_status
from pyro_vae.files import user_path
from pyro_vae.runs.config import load_configured_data
from pyro_vae.runs.measurements import PARTICLES
from pyro_vae.sweeps.plan import Plan, is_sweep, read_plan, recipe_digest
from pyro_vae.sweeps.results import sweep_results
from pyro_vae.sweeps.search import check_optuna
from pyro_vae.sweeps.settings import parse_grid, parse_range, product, spelled
from pyro_vae.sweeps.sweep import run_sweep

Grid = Mapping[str, Sequence[str]]  # values by option
OWN = ("out", "seeds", "grid", "range", "search", "jobs", "particles", "trust", "seed")


def sweep(arguments: Sequence[str]) -> None:
    """Train a recipe with several seeds and settings, measure all, and rank them by validation."""
    parser = make_parser("sweep", sweep.__doc__)
    parser.add_argument("recipe", help="a recipe's name (see pyro-vae recipes), or a .yaml file of one's own")
    parser.add_argument("--out", type=str, required=True, help="the directory to make, with a run directory for each")
    parser.add_argument("--seeds", type=str, default="1", help="how many, from --seed on; or which, as 3,5,8")
    parser.add_argument("--grid", action="append", type=str, help="values of an option, fit.learning_rate=1e-3,3e-4")
    parser.add_argument("--range", action="append", type=str, help="of a search: fit.learning_rate=1e-4..1e-2:log")
    parser.add_argument("--search", type=int, default=0, help="try so many settings, chosen by optuna on validation")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, with one thread each")
    parser.add_argument("--particles", type=int, default=PARTICLES, help="importance samples per datum of measurements")
    add_trust(parser, "of a .yaml file")
    namespace = parse_training(parser, arguments, "pyro-vae sweep RECIPE --out DIR --seeds 5")
    out = Path(namespace.out)
    if not namespace.out:
        raise UsageError("--out is empty: say the directory to make")
    plan = _plan(namespace, arguments)
    if is_sweep(out):
        begun = read_plan(out)
        plan = begun.extended(plan, out)
        _check_settings(plan, arguments, known=begun.grid)
        logging.info("%s is there: %d runs, now %d", out, len(begun.runs()), len(plan.runs()))
    else:
        if out.is_dir() and any(out.iterdir()):
            raise InputError(f"{out} holds something else than a sweep: choose another directory (--out)")
        plan = plan.begun()
        _check_settings(plan, arguments)
    _work(out, plan, namespace.fit.epochs, namespace.jobs, namespace.trust)


def go_on(folder: Path, jobs: int, trust: bool) -> None:
    """Go on with a sweep that was interrupted, or has runs that failed.

    Args:
        folder: the sweep's directory.
        jobs: runs at once.
        trust: run the code of classes outside ``pyro_vae`` that the configuration names.
    """
    plan = read_plan(folder)
    plan.check_recipe()
    base = make_parser("sweep", None)
    base.add_argument("recipe")
    add_trust(base)
    namespace = parse_training(base, [plan.recipe, *plan.options, *["--trust"] * trust], "")
    _work(folder, plan, namespace.fit.epochs, jobs, trust)


def _work(out: Path, plan: Plan, epochs: int, jobs: int, trust: bool) -> None:
    """Train, measure, print and write; a signal ends the process."""
    try:
        failed = run_sweep(out, plan, epochs=epochs, jobs=jobs, trust=trust)
    except KeyboardInterrupt as error:
        logging.warning("%s; go on with: pyro-vae resume %s", str(error) or "interrupted", out)
        raise SystemExit(exit_status(error)) from None
    found = sweep_results(out)
    print(found, flush=True)
    for path in found.write(out, failed):
        print(path)
    for name, said in failed.items():
        logging.warning("failed: %s: %s", name, said)
    if failed:
        raise InputError(
            f"{len(failed)} of {len(read_plan(out).runs())} runs have failed; try them again: pyro-vae resume {out}"
        )


def _plan(namespace: Any, arguments: Sequence[str]) -> Plan:
    """What the command line says."""
    grid = _once([parse_grid(text) for text in namespace.grid or []])
    ranges = _once([parse_range(text) for text in namespace.range or []])
    texts = dict(text.strip().removeprefix("--").split("=", 1) for text in namespace.range or [])
    if {*grid} & {*ranges}:
        raise UsageError(f"{min({*grid} & {*ranges})} has a grid and a range")
    if ranges and not namespace.search:
        raise UsageError("--range is of a search: say --search N, how many settings to try, or a --grid of values")
    if namespace.search and not (grid or ranges):
        raise UsageError("--search needs a --range or a --grid to choose from")
    if namespace.search < 0 or namespace.particles < 1 or namespace.jobs < 1:
        raise UsageError("--search, --particles and --jobs are numbers from 1")
    if namespace.search:
        check_optuna()
    data = load_configured_data(namespace)
    splits = tuple(split for split in ("validation", "test") if split in data.splits)
    if "validation" not in splits and (namespace.search or len(product(grid)) > 1):
        raise InputError(f"the data {data.name} have no validation part, on which settings are chosen")
    if not splits:
        raise InputError(f"the data {data.name} have neither a validation nor a test part to measure on")
    recipe = arguments[0]
    if recipe.endswith((".yaml", ".yml")):
        recipe = str(Path(recipe).resolve())
    options = _others(arguments[1:]) + _absolute(namespace)
    return Plan(
        recipe=recipe,
        recipe_digest=recipe_digest(recipe),
        options=options,
        seeds=_seeds(namespace.seeds, namespace.seed),
        grid=grid,
        ranges=texts or None,
        search=namespace.search,
        particles=namespace.particles,
        splits=splits,
        device=namespace.fit.device,
    )


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1)
        raise UsageError(f"{twice} has two grids or ranges: say all its values in one")
    return found


def _seeds(text: str, first: int) -> list[int]:
    """How many seeds, from the first on; or which."""
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if "," not in text and found and found[0] > 0:
        found = list(range(first, first + found[0]))
    elif "," not in text:
        found = []
    if not found or len(set(found)) < len(found):
        raise UsageError(f"--seeds takes how many there are to be, or which, as 3,5,8; got '{text}'")
    return found


def _others(arguments: Sequence[str]) -> list[str]:
    """The options of ``train`` among the arguments, ``--name=value`` each."""
    found, rest = [], iter(arguments)
    for argument in rest:
        name = argument.split("=")[0].removeprefix("--")
        if argument == "--trust":
            continue
        said = argument if "=" in argument else f"{argument}={next(rest, '')}"
        if name not in OWN:
            found.append(said)
    return found


def _absolute(namespace: Any) -> list[str]:
    """Where the data are, so that they are found from everywhere."""
    name, root = namespace.data.name, namespace.data.root
    found = []
    if name not in dataset_names() and user_path(name).exists():
        found.append(f"--data.name={user_path(name).resolve()}")
    if root is not None:
        found.append(f"--data.root={user_path(root).resolve()}")
    return found


def _check_settings(
    plan: Plan, arguments: Sequence[str], known: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> None:
    """Check that every value of the grid, and the ends of every range, are what the options take."""
    values = [(key, value) for key, some in plan.grid.items() for value in some if value not in known.get(key, ())]
    for key, text in (plan.ranges or {}).items() if not known else ():
        _, each = parse_range(f"{key}={text}")
        values += [(key, spelled(int(end) if each.whole else end)) for end in (each.low, each.high)]
    trust = ["--trust"] * ("--trust" in arguments)
    for key, value in values:
        parser = make_parser("sweep", None)
        parser.add_argument("recipe")
        add_trust(parser)
        parse_training(parser, [plan.recipe, *plan.options, f"--{key}={value}", *trust], "")
