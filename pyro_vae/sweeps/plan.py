"""``sweep.json``: what belongs to a sweep, written whole and read without trust."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_json
from pyro_vae.recipes import read_recipe
from pyro_vae.runs.measurements import read_json
from pyro_vae.runtime import check_seed
from pyro_vae.sweeps.settings import parse_grid, parse_range, product, run_name, setting_name

PLAN = "sweep.json"
MOST_RUNS = 100_000


@dataclass(frozen=True)
class Member:
    """A run of a sweep.

    Attributes:
        setting: its place among the settings.
        seed: of its training.
        name: of its directory.
    """

    setting: int
    seed: int
    name: str


@dataclass(frozen=True)
class Plan:
    """What belongs to a sweep.

    Attributes:
        recipe: its name, or the path of a YAML file.
        recipe_digest: SHA-256 of what the recipe says.
        options: of the command line, as ``pyro-vae train`` takes them; of every run.
        seeds: every setting is trained with each.
        grid: values by option.
        ranges: of a search, as they were written, by option.
        search: how many settings a search tries; 0: it is none, and every setting of the grid is trained.
        particles: importance samples per datum of the measurements.
        splits: the parts of the data that are measured.
        device: where they are measured.
        settings: values by option, of each setting; a search adds to them.

    Example:
        >>> from pyro_vae.sweeps import Plan
        >>> plan = Plan("vae", "", [], [0, 1], {"fit.learning_rate": ["1e-3", "3e-4"]})
        >>> [run.name for run in plan.begun().runs()][:2]
        ['learning_rate=1e-3,seed=0', 'learning_rate=1e-3,seed=1']
    """

    recipe: str
    recipe_digest: str
    options: list[str]
    seeds: list[int]
    grid: dict[str, list[str]]
    ranges: dict[str, str] | None = None
    search: int = 0
    particles: int = 5000
    splits: tuple[str, ...] = ("validation", "test")
    device: str = "auto"
    settings: tuple[dict[str, str], ...] = ()

    def begun(self) -> Plan:
        """With the settings that are known before anything is trained: all of a grid, none of a search."""
        return self if self.search else replace(self, settings=tuple(product(self.grid)))

    def runs(self) -> list[Member]:
        """Its runs: the settings in their order, each with all seeds."""
        every = enumerate(self.settings)
        return [Member(i, seed, run_name(values, seed)) for i, values in every for seed in self.seeds]

    def names(self) -> list[str]:
        """What the settings are called."""
        return [setting_name(values) for values in self.settings]

    def train_command(self, run: Member, out: Path, trust: bool) -> list[str]:
        """The arguments of ``pyro-vae`` that train a run."""
        values = [f"--{key}={value}" for key, value in self.settings[run.setting].items()]
        said = ["train", self.recipe, *self.options, *values, f"--seed={run.seed}", f"--out={out}"]
        return said + ["--trust"] * trust

    def write(self, folder: Path) -> None:
        """Write it into the sweep's directory, whole or not at all."""
        from pyro_vae import __version__

        write_json(folder / PLAN, {"version": __version__, **asdict(self)})

    def check_recipe(self) -> None:
        """Check that the recipe is what it was when the sweep was begun.

        Raises:
            InputError: if it is not, or is not there.
        """
        if recipe_digest(self.recipe) != self.recipe_digest:
            raise InputError(
                f"the recipe {self.recipe} is not what it was when the sweep was begun, so that its other runs would "
                "be of another experiment: put it back, or begin a sweep in another directory"
            )

    def extended(self, other: Plan, folder: Path) -> Plan:
        """This plan, begun in a directory, with what the same command says beyond it: more values, seeds, trials.

        Raises:
            InputError: if anything else differs, or the command says less.
        """
        for name in ("recipe", "recipe_digest", "options", "ranges", "splits", "device"):
            was, now = getattr(self, name), getattr(other, name)
            if was != now:
                raise InputError(
                    f"{folder} is a sweep of another experiment: its {name.replace('_', ' ')} was {_short(was)} and is "
                    f"{_short(now)}. Say the same, resume it (pyro-vae resume {folder}), or choose another --out"
                )
        if bool(self.search) != bool(other.search) or self.grid.keys() != other.grid.keys():
            was, now = (list(plan.grid) + ["--search"] * bool(plan.search) for plan in (self, other))
            raise InputError(f"{folder} is a sweep over {_short(was)}, not {_short(now)}: choose another --out")
        for what, was, now in (
            ("seeds", self.seeds, other.seeds),
            *((f"values of {key}", self.grid[key], other.grid[key]) for key in self.grid),
        ):
            gone = [each for each in was if each not in now]
            if gone or (self.search and what.startswith("values") and was != now):
                raise InputError(
                    f"{folder} has {what} {_short(was)}, of which {_short(gone or now)} would be left out, or a search "
                    "changed: a sweep is extended, never made smaller. Say them too, or choose another --out"
                )
        if other.search < self.search:
            raise InputError(f"{folder} is a search of {self.search} settings, which cannot become {other.search}")
        settings = self.settings if self.search else tuple(product(other.grid))
        return replace(other, settings=settings)


def recipe_digest(name: str) -> str:
    """SHA-256 of what a recipe says."""
    return hashlib.sha256(json.dumps(read_recipe(name), sort_keys=True).encode()).hexdigest()


def is_sweep(folder: Path) -> bool:
    """Whether a directory is a sweep's."""
    return (folder / PLAN).is_file()


def read_plan(folder: str | Path) -> Plan:
    """The plan of a sweep's directory; nothing that it names is run by reading it.

    Raises:
        InputError: if the directory is no sweep's.
        CorruptFileError: if its file is damaged.

    Example:
        >>> from pathlib import Path
        >>> from pyro_vae.sweeps import Plan, read_plan
        >>> Plan("vae", "", [], [3], {}).begun().write(Path("runs/sweep"))
        >>> read_plan("runs/sweep").runs()[0].name
        'seed=3'
    """
    folder = Path(folder)
    if not is_sweep(folder):
        raise InputError(f"{folder} is not the directory of a sweep: it has no {PLAN}")
    raw = read_json(folder / PLAN)
    raw.pop("version", None)
    try:
        plan = Plan(**{**raw, "splits": tuple(raw["splits"]), "settings": tuple(raw["settings"])})
        _check(plan)
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFileError(f"{folder / PLAN} is damaged ({error}): put it back from a copy") from error
    return plan


def _check(plan: Plan) -> None:
    """Check the kinds of all that was read; that names of runs are names, their making sees to."""
    texts = [plan.recipe, plan.recipe_digest, plan.device, *plan.options, *plan.splits]
    for mapping in (plan.ranges or {}, *plan.settings):
        texts += [*mapping.keys(), *mapping.values()]
    for key, values in plan.grid.items():
        texts += [key, *values]
        parse_grid(f"{key}={values[0]}")
    for key, text in (plan.ranges or {}).items():
        parse_range(f"{key}={text}")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a text is none")
    if any(option.partition("=")[0] in ("--out", "--seed", "--trust") for option in plan.options):
        raise ValueError("options of every run say --out, --seed or --trust")
    whole = [plan.search, plan.particles, *plan.seeds]
    if not all(type(number) is int for number in whole) or plan.particles < 1 or plan.search < 0:
        raise ValueError("a number is no whole one")
    for seed in plan.seeds:
        check_seed(seed)
    if not plan.seeds or len(plan.settings) * len(plan.seeds) > MOST_RUNS:
        raise ValueError("no runs, or too many")
    expected = {*plan.grid, *(plan.ranges or {})}
    if any(set(values) != expected for values in plan.settings):
        raise ValueError("a setting has other options than the grid")
    names = [run.name for run in plan.runs()]
    if len(set(names)) < len(names):
        raise ValueError("two runs have one name")
    if not set(plan.splits) <= {"validation", "test"}:
        raise ValueError("an unknown part of the data")


def _short(value: Mapping[str, Any] | Sequence[Any] | str) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:119]}…"
