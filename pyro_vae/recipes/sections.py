"""Configurations by section: read, checked and written in one way, whatever they configure."""

from __future__ import annotations

import os
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from pyro_vae.errors import InputError, unknown
from pyro_vae.files import write_atomically


def check_sections(config: Mapping[str, Any], known: Sequence[str], source: str) -> None:
    """Check that a configuration has no section but known ones.

    Raises:
        InputError: names the section, with the nearest known one.
    """
    for section in config:
        if section not in known:
            raise unknown(f"section in {source}", section, known)


def parse_sections(parser: ArgumentParser, config: Mapping[str, Any], source: str, defaults: bool = True) -> Namespace:
    """Check a configuration against a parser's signatures and fill in the defaults, or leave them out.

    Raises:
        InputError: names what does not fit.
    """
    try:
        return parser.parse_object(dict(config), defaults=defaults)
    except (ArgumentError, TypeError, ValueError) as error:
        raise InputError(f"{source}: {error}") from error


def classes_changed(said: Namespace, chosen: Namespace) -> list[str]:
    """What has become of a recipe's classes, a line for each that another has taken the place of.

    Args:
        said: what the recipe says, without defaults.
        chosen: what is to be done.
    """
    lines = []
    for name, recipe in said.items(branches=True):
        if not isinstance(recipe, Namespace) or "class_path" not in recipe:
            continue
        now = chosen.get(name)
        if not isinstance(now, Namespace) or "class_path" not in now:
            lines.append(f"{name}: none, in place of the recipe's {recipe.class_path}")
        elif locate(now.class_path) is not locate(recipe.class_path):
            options, present = (vars(each.get("init_args", Namespace())) for each in (recipe, now))
            kept = [f"{key} = {value}" for key, value in options.items() if key in present and present[key] == value]
            gone = [key for key in options if key not in present]
            told = [f"of the recipe's options {', '.join(kept)} kept"] if kept else []
            told += [f"{', '.join(gone)} dropped, which it does not have"] if gone else []
            where = name.replace(".init_args", "")
            lines.append(
                "; ".join([f"{where}: {now.class_path} in place of the recipe's {recipe.class_path}", *told])
                + ("" if told else ", with its own defaults")
            )
    return lines


def write_config(file: Path, parser: ArgumentParser, config: Namespace, head: Mapping[str, Any]) -> None:
    """Write a configuration as YAML, atomically: the package's version, what ``head`` says, and all the sections."""
    from pyro_vae import __version__

    body = yaml.safe_load(parser.dump(config, "yaml", False))  # False: with the entries that are null
    text = yaml.safe_dump({"version": __version__, **head, **body}, sort_keys=False)
    write_atomically(file, lambda temporary: temporary.write_text(text))


def is_first_process() -> bool:
    """Whether this is the first of data-parallel processes, which alone writes; the others run the same command."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0
