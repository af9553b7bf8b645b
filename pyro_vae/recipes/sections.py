"""Configurations by section: read, checked and written in one way, whatever they configure."""

from __future__ import annotations

import os
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from pathlib import Path
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


def parse_sections(parser: ArgumentParser, config: Mapping[str, Any], source: str) -> Namespace:
    """Check a configuration against a parser's signatures and fill in the defaults.

    Raises:
        InputError: names what does not fit.
    """
    try:
        return parser.parse_object(dict(config))
    except (ArgumentError, TypeError, ValueError) as error:
        raise InputError(f"{source}: {error}") from error


def write_config(file: Path, parser: ArgumentParser, config: Namespace, head: Mapping[str, Any]) -> None:
    """Write a configuration as YAML, atomically: the package's version, what ``head`` says, and all the sections."""
    from pyro_vae import __version__

    body = yaml.safe_load(parser.dump(config, "yaml", False))  # False: with the entries that are null
    text = yaml.safe_dump({"version": __version__, **head, **body}, sort_keys=False)
    write_atomically(file, lambda temporary: temporary.write_text(text))


def is_first_process() -> bool:
    """Whether this is the first of data-parallel processes, which alone writes; the others run the same command."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0
