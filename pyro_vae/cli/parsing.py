"""Parsers of the commands, and errors that name the nearest option."""

from __future__ import annotations

import argparse
import difflib
import logging
import re
import shutil
import sys
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jsonargparse
from jsonargparse import ArgumentParser

from pyro_vae.errors import InputError, UsageError
from pyro_vae.runs.section_parser import SectionParser


def _spelled(name: str) -> str:
    return name.replace("_", "-") if name.startswith("--") and "." not in name else name


def make_parser(command: str, description: str | None) -> ArgumentParser:
    """A parser that raises its errors."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=False)
    return SectionParser(
        prog=f"pyro-vae {command}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=Help,
    )


class Help(jsonargparse.DefaultHelpFormatter):
    """Help that fits a screen: as wide as that is, without the usage of every option and without lists of classes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options["width"] = max(100, shutil.get_terminal_size().columns - 2)
        super().__init__(*arguments, **{"max_help_position": 40, **options})

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        if usage is None and sum(bool(action.option_strings) for action in actions) > MANY:
            actions = [action for action in actions if action.required or not action.option_strings]
            usage = super()._format_usage(None, actions, groups, "").strip() + " [--option value …]"
        return super()._format_usage(usage, actions, groups, prefix)

    def _expand_help(self, action: Any) -> str:
        text = re.sub(r", known subclasses: [^)]*", "", super()._expand_help(action))
        found = re.fullmatch(r"(.*?) \(((?:required|type: |default: ).*)\)", text, flags=re.DOTALL)
        text, facts = (found[1], found[2]) if found else (text, "")
        default = re.search(r"default: (?!null)(.*)$", facts)
        required = " (required)" if facts.startswith("required") and action.nargs not in ("*", "?") else ""
        if any("." in name for name in action.option_strings):  # of a section: its documentation has the rest
            text = re.split(r"(?<=[^.])\.(?: |$)|; (?=\")|: (?=\")", text)[0]
        return text.rstrip(".").replace("``", "") + (f" ({default[0]})" if default else required)

    def add_argument(self, action: Any) -> None:
        """Leave out what every section and schedule has, a file and help on its classes, and options of some data."""
        section = any(re.fullmatch(r"--\w+\.\w+\.help", name) for name in action.option_strings)
        if not section and action.help not in LEFT_OUT:
            super().add_argument(action)

    def start_section(self, heading: str | None) -> None:
        """A section's title; of modules, that there are classes of them."""
        super().start_section("Programs, by class" if heading == MODULES else heading)


LEFT_OUT = ("Path to a configuration file.", "of some data: see `pyro-vae datasets`")
MODULES = "Base class for all neural network modules"  # what torch's own docstring says
MANY = 12  # options, in a usage that lists them


def run_parser(command: str, description: str | None, or_else: str = "") -> ArgumentParser:
    """A parser of a command on a run directory, or on something else that its help says."""
    parser = make_parser(command, description)
    parser.add_argument("dir", type=Path, help=f"the run directory (--on DIR says the same){or_else}")
    add_trust(parser)
    return parser


def recipe_of(name: str, trust: bool) -> dict[str, Any]:
    """A recipe by its name, or a YAML file: if that is trusted, classes of one's own are found beside it."""
    from pyro_vae.recipes import read_recipe

    recipe = read_recipe(name)
    if trust and name.endswith((".yaml", ".yml")):
        sys.path[:0] = ["", str(Path(name).resolve().parent)]
    return recipe


def directory_first(arguments: Sequence[str]) -> list[str]:
    """Arguments of a command on a run directory, which ``--on DIR`` may have named anywhere: with that in front."""
    arguments = list(arguments)
    for i, argument in enumerate(arguments):
        if argument == "--on" and i + 1 < len(arguments):
            return [arguments[i + 1], *arguments[:i], *arguments[i + 2 :]]
        if argument.startswith("--on="):
            return [argument.removeprefix("--on="), *arguments[:i], *arguments[i + 1 :]]
    return arguments


def add_trust(parser: ArgumentParser, whose: str = "that the configuration names") -> None:
    """Give a parser the option without which no file makes the package run code."""
    parser.add_argument("--trust", action="store_true", help=f"run the code of classes outside pyro_vae {whose}")


class Built(Exception):
    """A command's parser, where nothing but that is wanted: see :func:`parser_of`."""

    def __init__(self, parser: ArgumentParser) -> None:
        super().__init__("built")
        self.parser = parser


_wanted: ContextVar[bool] = ContextVar("_wanted", default=False)


def parser_of(command: Callable[[Sequence[str]], None], arguments: Sequence[str] = ()) -> ArgumentParser:
    """The parser that a command makes, which is not run."""
    token = _wanted.set(True)
    try:
        command(arguments)
    except Built as built:
        return built.parser
    finally:
        _wanted.reset(token)
    raise AssertionError(f"{command.__name__} parses nothing")


def only_parser_wanted() -> bool:
    """Whether :func:`parser_of` is at work, so that the next :func:`parse` ends the command."""
    return _wanted.get()


def _normal(argument: str) -> str:
    """An option with the spelling that parsers know; its value as it is."""
    name, *value = argument.split("=", 1)
    return "=".join([_spelled(name), *value])


def parse(parser: ArgumentParser, arguments: Sequence[str], said: Any = None, known: Any = None) -> Any:
    """Parse, with the nearest name for an option that is not known; options may stand before and after what has none.

    Args:
        parser: the command's.
        arguments: of the command line.
        said: what holds where the arguments say nothing, a namespace; it is left as it is.
        known: a namespace whose keys are options too.

    Raises:
        UsageError: for what the parser refuses.
    """
    if _wanted.get():
        raise Built(parser)
    if any(action.dest == "dir" for action in parser._actions):
        arguments = directory_first(arguments)
    arguments = [_normal(argument) for argument in arguments]
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
    from pyro_vae.runs.sections import classes_changed

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


def _explained(error: Exception, parser: ArgumentParser, arguments: Sequence[str], defaults: Any) -> UsageError:
    """The parser's error; where an option is unknown, in one line with the nearest known one."""
    known = {o for action in parser._actions for o in action.option_strings}
    if defaults is not None:
        known |= {"--" + k.replace(".init_args", "") for k in defaults.keys(branches=True)}
    given = [a.split("=")[0] for a in arguments if a.startswith("--")]
    refused = re.search(r"Option '([\w.]+)' is not accepted", str(error))
    stranger = next((o for o in given if o not in known and (o in str(error) or refused)), None)
    if stranger is None:
        return UsageError(_of_another_kind(str(error), arguments) or str(error))
    near = difflib.get_close_matches(stranger, sorted(known), n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    return UsageError(f"unknown option {stranger}.{hint} All options: {parser.prog} --help")


KINDS = {  # of values, as the parser calls them and as people do
    "<class 'int'>": "an integer",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "a text",
    "<class 'dict'>": 'a mapping, as {"name": 1}',
    **dict.fromkeys(("<class 'list'>", "<class 'tuple'>", "<class 'collections.abc.Sequence'>"), "a list, as [1,2]"),
    "dot import path string": "the name of a class",
}


def _of_another_kind(error: str, arguments: Sequence[str]) -> str | None:
    """A sentence on a value of another kind than its option takes; None: the error is another one."""
    *_, last = re.split(r"Parser key (?=\")", error)
    key = re.match(r"\"([\w.]+)\":", last)
    pattern = r"Expected an? (<class '[\w.]+'>|typing\.Literal\[[^]]*\]|dot import path string)"
    expected = [kind for kind in re.findall(pattern, last) if kind != "<class 'NoneType'>"]
    if key is None or not expected or any(kind not in KINDS and "Literal" not in kind for kind in expected):
        return None
    kinds = [KINDS[k] if k in KINDS else ", ".join(re.findall(r"'([^']*)'", k)) for k in expected]
    said = [argument.split("=", 1) for argument in arguments]
    names = [i for i, words in enumerate(said) if re.search(rf"(^--|\.){_spelled_in(key[1])}$", words[0])]
    if not names:
        return f"{key[1]} takes {' or '.join(dict.fromkeys(kinds))}"
    name, *value = said[names[-1]]
    value = value or arguments[names[-1] + 1 : names[-1] + 2]
    return f"{name} takes {' or '.join(dict.fromkeys(kinds))}; got '{value[0] if value else ''}'"


def _spelled_in(key: str) -> str:
    """A pattern of an option's name, of a key that the parser names."""
    return re.escape(key).replace("_", "[-_]")


RECIPES = {
    "train": ["vae"],
    "sweep": ["vae"],
    "train-prior": ["DIR", "pixelcnn"],
}  # of which their options are, in the place of any


def completion_script(
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
    for name, text in commands.items():
        part = places.add_parser(name, help=text, add_help=False)
        for action in parser_of(command(name), RECIPES.get(name, ()))._actions:
            if action.help is not argparse.SUPPRESS:
                part.add_argument(
                    *(action.option_strings or [action.dest]),
                    help=" ".join((action.help or "").split())[:80].replace("%", "%%"),
                    choices=action.choices if isinstance(action.choices, list | tuple) else None,
                )
    found: str = shtab.complete(whole, shell=arguments[0])
    return found
