"""The recipes that the package ships, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from pyro_vae.errors import CorruptFileError, InputError, unknown
from pyro_vae.recipes.known import check_shape


def recipe_names() -> dict[str, str]:
    """Name and one-line description (its first comment line) of every recipe."""
    files = sorted(resources.files("pyro_vae.recipes").iterdir(), key=lambda f: f.name)
    named = {f.name.removesuffix(".yaml"): f for f in files if f.name.endswith(".yaml")}
    return {name: f.read_text().splitlines()[0].removeprefix("# ") for name, f in named.items()}


def recipe_text(name: str) -> str:
    """The YAML text of a recipe.

    Raises:
        InputError: for an unknown name, with the nearest one.
    """
    if name not in recipe_names():
        raise unknown("recipe", name, recipe_names())
    return (resources.files("pyro_vae.recipes") / f"{name}.yaml").read_text()


def read_recipe(name: str) -> dict[str, Any]:
    """A recipe by name, or a YAML file of one's own by path (ending in .yaml or .yml).

    Raises:
        InputError: for an unknown name or a missing file.
        CorruptFileError: for a file that is not a YAML mapping.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise InputError(f"recipe file {name} does not exist")
        return read_yaml(Path(name))
    return parse_yaml(recipe_text(name), name)


def read_yaml(path: Path) -> dict[str, Any]:
    """A file that holds a YAML mapping.

    Raises:
        InputError: if it cannot be read.
        CorruptFileError: if it is not one.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path} is not a text file: {error}") from error


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """A YAML mapping; nothing in it is executed.

    Raises:
        CorruptFileError: names the source if it is not one, or one that :func:`~pyro_vae.recipes.known.check_shape`
            refuses, so that whatever is made of it ends.
    """
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date with a 13th month
        told = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise CorruptFileError(f"{source} is not valid YAML: {told}") from error
    if not isinstance(value, dict):
        raise CorruptFileError(f"{source} should hold a YAML mapping with keys data, model, guide, …")
    check_shape(value, source)
    return value
