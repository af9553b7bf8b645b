"""Parsers of the commands, and errors that name the nearest option."""

from __future__ import annotations

import difflib
import re
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from pyro_vae.errors import InputError


def columns(rows: dict[str, str]) -> str:
    """Names and texts, a line each, the texts below one another."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows.items())


def make_parser(command: str, description: str | None) -> ArgumentParser:
    """A parser that raises its errors."""
    name = f"pyro-vae {command}"
    return ArgumentParser(prog=name, description=description, exit_on_error=False, allow_abbrev=False)


def run_parser(command: str, description: str | None) -> ArgumentParser:
    """A parser of a command on a run directory."""
    parser = make_parser(command, description)
    parser.add_argument("dir", type=Path, help="the run directory")
    parser.add_argument(
        "--trust", action="store_true", help="run the code of classes outside pyro_vae that the configuration names"
    )
    return parser


def parse(parser: ArgumentParser, arguments: Sequence[str], defaults: Any = None) -> Any:
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
