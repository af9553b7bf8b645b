"""Parsers of the commands: options, context y, and errors that name the nearest option."""

from __future__ import annotations

import difflib
import logging
import re
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from pyro_vae.errors import InputError, unknown
from pyro_vae.programs.context import Context, num_attributes, num_classes
from pyro_vae.runs.config import classes_changed


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
    add_trust(parser)
    return parser


def add_trust(parser: ArgumentParser, whose: str = "that the configuration names") -> None:
    """Give a parser the option without which no file makes the package run code."""
    parser.add_argument("--trust", action="store_true", help=f"run the code of classes outside pyro_vae {whose}")


def parse(parser: ArgumentParser, arguments: Sequence[str], said: Any = None, known: Any = None) -> Any:
    """Parse, with the nearest name for an option that is not known; options may stand before and after what has none.

    Args:
        parser: the command's.
        arguments: of the command line.
        said: what holds where the arguments say nothing, a namespace; it is left as it is.
        known: a namespace whose keys are options too.

    Raises:
        InputError: for what the parser refuses.
    """
    try:
        return parser.parse_args(_options_last(parser, arguments), namespace=None if said is None else said.clone())
    except (ArgumentError, TypeError, ValueError) as error:
        raise _explained(error, parser, arguments, known) from error


def parse_over(parser: ArgumentParser, arguments: Sequence[str], read: Callable[..., Any]) -> Any:
    """Parse arguments that change a recipe; where one changes a class, the other options are the new class's own.

    What the recipe itself says is kept, where the new class has it; the log says what was kept and dropped.

    Args:
        parser: the command's.
        arguments: of the command line.
        read: gives the recipe as a namespace, with its classes' defaults or, called with ``defaults=False``, without.
    """
    known, said = read(), read(defaults=False)
    chosen = parse(parser, arguments, said, known)
    for line in classes_changed(said, chosen):
        logging.info("%s", line)
    return chosen


def _options_last(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Arguments without a name first, in their order, then the options with their values, in theirs."""
    if "--" in arguments:
        return list(arguments)
    flags = {name for action in parser._actions if action.nargs == 0 for name in action.option_strings}
    named: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-") or argument == "-":
            others.append(argument)
        else:
            named.append(argument)
            if "=" not in argument and argument not in flags:
                named.extend(value for value in [next(rest, None)] if value is not None)
    return others + named


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


USUAL = 10  # labels, where nobody says how many there are


def parse_y(text: str, context: Context | None, num: int | None = None, classes: Sequence[str] | None = None) -> Tensor:
    """The values that a text says, checked against what the program declares.

    Args:
        text: labels (``7``, or ``0,1,2``), or the names of classes (``dog``, or ``cat,dog``), or attribute vectors
            (``0.5,1,0``, or several, with ``;`` between them).
        context: what the program accepts; labels, if it does not say.
        num: repeat the values in turns until there are so many.
        classes: the names of the labels, if they have names. What is a name is taken as one, even if it is a number.

    Returns:
        labels ``(n,)`` int64, or attribute vectors ``(n, A)``.

    Raises:
        InputError: if the text cannot be read so, or the program does not accept the values.
    """
    values = _parsed(text, context, classes)
    if context is not None:
        context.check("y", values)
    return values if num is None else values[torch.arange(num) % len(values)]


def describe_y(context: Context | None) -> str:
    """What y is, for people."""
    return context.what if context is not None else "class labels"


def example_y(context: Context | None, classes: Sequence[str] | None = None) -> str:
    """What could be said of y, for people: values that the program accepts."""
    size = num_attributes(context) if context is not None else None
    if size is not None:
        return ",".join(["0.5"] * min(size, 4)) + (",…" if size > 4 else "")
    if classes:
        return f"{classes[-1]} or --y {','.join(classes[:3])}"
    count = (num_classes(context) if context is not None else None) or USUAL
    return f"{min(7, count - 1)} or --y {','.join(str(i) for i in range(min(3, count)))}"


def _parsed(text: str, context: Context | None, classes: Sequence[str] | None) -> Tensor:
    try:
        if context is not None and num_attributes(context) is not None:
            rows = [[float(number) for number in row.split(",")] for row in text.split(";")]
            if len({len(row) for row in rows}) > 1:
                raise ValueError("the vectors differ in length")
            return torch.tensor(rows)
        if classes:
            return torch.tensor(_labels(text, classes))
        return torch.tensor([int(number) for number in text.split(",")])
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        example = example_y(context, classes)
        raise InputError(f"--y takes {describe_y(context)}, e.g. --y {example}; got '{text}' ({error})") from error


def _labels(text: str, classes: Sequence[str]) -> list[int]:
    """Labels by name or number; a name may itself have commas in it."""
    if text in classes:
        return [_label(text, classes)]
    return [_label(word.strip(), classes) for word in text.split(",")]


def _label(word: str, classes: Sequence[str]) -> int:
    if word in classes:
        place = classes.index(word)
        if word.isdecimal() and place != int(word):
            logging.info("--y: '%s' is the name of a class, whose label is %d", word, place)
        return place
    try:
        return int(word)
    except ValueError:
        raise unknown("class", word, classes) from None
