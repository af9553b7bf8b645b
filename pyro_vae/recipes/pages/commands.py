"""The command lines that repeat what a page shows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pyro_vae.errors import InputError
from pyro_vae.recipes.catalogue import read_recipe
from pyro_vae.recipes.experiment import experiment_parser, foreign_class_paths, parse_config
from pyro_vae.recipes.pages.stored import flattened
from pyro_vae.recipes.run import Run


def train_command(run: Run) -> str:
    """How the run was trained: its recipe, and the options in which it differs from that."""
    base = ["pyro-vae", "train", run.recipe, "--out", f"{run.path}-again"]
    try:
        recipe = read_recipe(run.recipe)
        parsed = parse_config(experiment_parser(recipe), recipe, run.recipe)
    except (InputError, ImportError):
        return f"{shlex.join(base)}    # the recipe is not here; the configuration is below"
    usual, own = (flattened(yaml.safe_load(json.dumps(c.as_dict(), default=str))) for c in (parsed, run.config))
    options = [(name, value) for name, value in own.items() if name not in usual or usual[name] != value]
    classes = [name for name, _ in options if name.endswith(".class_path")]
    for name in classes:  # a class is said before its arguments
        options.sort(key=lambda option: option[0] != name)
    spelled = [f"--{name.removesuffix('.class_path')}={_spelled(value)}" for name, value in options]
    return shlex.join([*base, *spelled])


def evaluate_command(run: Run, evaluation: Mapping[str, Any], whole: int | None) -> str:
    """How an evaluation is repeated; ``whole``: how many data the part has."""
    words = ["pyro-vae", "evaluate", str(run.path), "--split", str(evaluation.get("split", "test"))]
    words += ["--particles", str(evaluation["num_particles"]), "--seed", str(evaluation.get("seed", 0))]
    if whole is not None and evaluation["num_data"] != whole:
        words += ["--limit", str(evaluation["num_data"])]
    return shlex.join(words + trusted(run))


def page_command(command: str, directories: list[str], options: Mapping[str, Any], trust: list[str]) -> str:
    """How a page is made again; options that are None are left out."""
    said = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["pyro-vae", command, *directories, *said, *trust])


def trusted(run: Run) -> list[str]:
    """The option that lets foreign code run, where the configuration names any."""
    config = yaml.safe_load(Path(run.path / "config.yaml").read_text(encoding="utf-8"))
    facts = ("recipe", "data_shape", "version", "sound")
    foreign = foreign_class_paths({name: value for name, value in config.items() if name not in facts})
    return ["--trust"] if foreign else []


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
