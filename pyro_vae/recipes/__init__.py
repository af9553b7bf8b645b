"""Configured experiments: recipes by name, run directories."""

from pyro_vae.recipes.catalogue import read_recipe, recipe_names, recipe_text
from pyro_vae.recipes.run import Run, load

__all__ = ["Run", "load", "read_recipe", "recipe_names", "recipe_text"]
