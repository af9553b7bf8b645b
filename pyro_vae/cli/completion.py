"""``pyro-vae --completion``: a script that completes commands and options in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from pyro_vae.cli.parsing import parser_of
from pyro_vae.errors import InputError, UsageError

RECIPES = {"train": ["vae"], "train-prior": ["pixelcnn"]}  # of which their options are, in the place of any


def script(
    arguments: Sequence[str],
    commands: Mapping[str, str],
    command: Callable[[str], Callable[[Sequence[str]], None]],
) -> str:
    """The script for a shell, by ``shtab``.

    Args:
        arguments: the shell's name.
        commands: what each does, by name.
        command: gives the function of one.

    Raises:
        UsageError: for another shell.
        InputError: if ``shtab`` is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise InputError("completion needs the package shtab: pip install shtab") from error
    if len(arguments) != 1 or arguments[0] not in shtab.SUPPORTED_SHELLS:
        raise UsageError(f"--completion takes one of {', '.join(shtab.SUPPORTED_SHELLS)}")
    whole = argparse.ArgumentParser(prog="pyro-vae")
    places = whole.add_subparsers()
    for name, told in commands.items():
        part = places.add_parser(name, help=told, add_help=False)
        for action in parser_of(command(name), RECIPES.get(name, ()))._actions:
            if action.help is not argparse.SUPPRESS:
                part.add_argument(
                    *(action.option_strings or [action.dest]),
                    help=" ".join((action.help or "").split())[:80].replace("%", "%%"),
                    choices=action.choices if isinstance(action.choices, list | tuple) else None,
                )
    found: str = shtab.complete(whole, shell=arguments[0])
    return found
