"""The command lines that repeat what a page shows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import yaml
from jsonargparse import Namespace

from pyro_vae.errors import InputError
from pyro_vae.recipes.catalogue import read_recipe, read_yaml
from pyro_vae.recipes.directory import CONFIG
from pyro_vae.recipes.experiment import experiment_parser, parse_config
from pyro_vae.recipes.known import foreign_names
from pyro_vae.recipes.learned_priors import PRIORS, parse_prior_config
from pyro_vae.recipes.run import Run
from pyro_vae.recipes.sections import flattened


def train_command(run: Run) -> str:
    """How the run was trained: its recipe, and the options in which it differs from that."""
    base = ["pyro-vae", "train", run.recipe, "--out", f"{run.path}-again", *trusted(run)]
    try:
        recipe = read_recipe(run.recipe)
        parsed = parse_config(experiment_parser(recipe), recipe, run.recipe)
    except (InputError, ImportError):
        return f"{shlex.join(base)}    # the recipe is not here; the configuration is below"
    return shlex.join([*base, *_options(parsed, run.config.as_dict())])


def prior_commands(run: Run) -> list[str]:
    """How the priors of a run were learned, by their recipes and the options in which they differ from those."""
    lines = []
    for file in sorted((run.path / PRIORS).glob(f"*/{CONFIG}")):
        config = read_yaml(file)
        name = str(config.get("recipe"))
        words = ["pyro-vae", "train-prior", name, "--on", f"{run.path}-again", "--site", file.parent.name]
        try:
            usual = parse_prior_config(read_recipe(name), name)
        except (InputError, ImportError):
            lines.append(f"{shlex.join(words)}    # the recipe is not here: see {file}")
            continue
        own = {
            section: config[section] for section in ("prior", "text", "fit", "conditional", "seed") if section in config
        }
        lines.append(shlex.join([*words, *_options(usual, own), *trusted(run)]))
    return lines


def _options(usual: Namespace, own: Mapping[str, Any]) -> list[str]:
    """The options that make a configuration of the usual one; a class is said before its arguments."""
    flat, ours = (flattened(yaml.safe_load(json.dumps(c, default=str))) for c in (usual.as_dict(), own))
    differs = {name for name, value in ours.items() if name not in flat or flat[name] != value}
    of_other_classes = tuple(name.removesuffix("class_path") for name in differs if name.endswith(".class_path"))
    options = [(name, value) for name, value in ours.items() if name in differs or name.startswith(of_other_classes)]
    options.sort(key=lambda option: not option[0].endswith(".class_path"))
    return [f"--{name.removesuffix('.class_path')}={_spelled(value)}" for name, value in options]


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
    config = read_yaml(run.path / CONFIG)
    facts = ("recipe", "data_shape", "version", "sound", "classes", "data_digest")
    foreign = foreign_names({name: value for name, value in config.items() if name not in facts})
    return ["--trust"] if foreign else []


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
