"""The recipes that the package ships, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from pyro_vae.errors import InputError, unknown
from pyro_vae.files import parse_yaml, read_yaml

__all__ = ["read_recipe", "recipe_names", "recipe_text"]


def recipe_names() -> dict[str, str]:
    """Name and one-line description (its first comment line) of every recipe.

    Example:
        >>> from pyro_vae.recipes import recipe_names
        >>> "vae" in recipe_names()
        True
    """
    files = sorted(resources.files("pyro_vae.recipes").iterdir(), key=lambda f: f.name)
    named = {f.name.removesuffix(".yaml"): f for f in files if f.name.endswith(".yaml")}
    return {name: f.read_text().splitlines()[0].removeprefix("# ") for name, f in named.items()}


def recipe_text(name: str) -> str:
    """The YAML text of a recipe.

    Raises:
        InputError: for an unknown name, with the nearest one.

    Example:
        >>> from pyro_vae.recipes import recipe_text
        >>> recipe_text("vae").startswith("# ")
        True
    """
    if name not in recipe_names():
        raise unknown("recipe", name, recipe_names())
    return (resources.files("pyro_vae.recipes") / f"{name}.yaml").read_text()


def read_recipe(name: str) -> dict[str, Any]:
    """A recipe by name, or a YAML file of one's own by path (ending in .yaml or .yml).

    Raises:
        InputError: for an unknown name or a missing file.
        CorruptFileError: for a file that is not a YAML mapping.

    Example:
        >>> from pyro_vae.recipes import read_recipe
        >>> read_recipe("vae")["model"]["class_path"]
        'pyro_vae.models.VAE'
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise InputError(f"recipe file {name} does not exist")
        return read_yaml(Path(name))
    return parse_yaml(recipe_text(name), name)
