"""The command line of a training: a recipe, and options over it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from jsonargparse import ArgumentParser, Namespace

from pyro_vae.cli.parsing import only_parser_wanted, parse, parse_over, recipe_of
from pyro_vae.errors import UsageError
from pyro_vae.runs.config import add_experiment_arguments, experiment_parser, parse_config
from pyro_vae.runs.known import full_name


def parse_training(parser: ArgumentParser, arguments: Sequence[str], usage: str) -> Namespace:
    """The configuration of a training from a command line that begins with its recipe, over what that says.

    Args:
        parser: with the command's own options; it gets those of the recipe's sections.
        arguments: of the command line.
        usage: the command in short.

    Raises:
        UsageError: if there is no recipe, or an option is not understood.
    """
    if not arguments or arguments[0].startswith("-"):
        add_experiment_arguments(parser, {})
        if not {"--help", "-h"} & {*arguments} and not only_parser_wanted():
            raise UsageError(f"the recipe comes first: {usage} [--section.option value …]")
        parse(parser, ["--help"])
    trust = "--trust" in arguments
    recipe = recipe_of(arguments[0], trust)
    add_experiment_arguments(parser, recipe)
    if any(a in ("-h", "--help") or re.search(r"\.help\b", a) for a in arguments):
        parse(parser, _with_full_names(arguments))
    read = partial(parse_config, experiment_parser(recipe), recipe, f"recipe {arguments[0]}", trust=trust)
    return parse_over(parser, arguments, read)


def _with_full_names(arguments: Sequence[str]) -> list[str]:
    """Arguments in which ``--model.help BIVA`` names the class by its path: it need not have been imported."""
    found: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name.endswith(".help"):
            argument = f"{name}={full_name(value)}"
        elif found and found[-1].endswith(".help"):
            argument = full_name(argument)
        found.append(argument)
    return found
