"""The ``pyro-vae`` command."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

import jsonargparse

from pyro_vae import __version__
from pyro_vae.cli.anneal import ais, gap, sandwich
from pyro_vae.cli.compare import compare
from pyro_vae.cli.evaluate import evaluate
from pyro_vae.cli.parsing import columns
from pyro_vae.cli.reconstruct import reconstruct
from pyro_vae.cli.report import report
from pyro_vae.cli.sample import sample
from pyro_vae.cli.show import datasets, figures, recipes
from pyro_vae.cli.train import resume, train
from pyro_vae.cli.train_prior import train_prior
from pyro_vae.cli.train_ranker import train_ranker
from pyro_vae.errors import InputError, NonFiniteLossError, unknown

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    f.__name__.replace("_", "-"): f
    for f in (
        *(train, train_prior, train_ranker, resume),
        *(evaluate, ais, sandwich, gap, report, compare),
        *(sample, reconstruct, figures, recipes, datasets),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2: something the user can put right)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=False)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: pyro-vae COMMAND …   (pyro-vae COMMAND --help)\n")
        print(columns({n: (f.__doc__ or "").splitlines()[0] for n, f in COMMANDS.items()}))
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    try:
        if arguments[0] not in COMMANDS:
            raise unknown("command", arguments[0], COMMANDS)
        COMMANDS[arguments[0]](arguments[1:])
    except (InputError, NonFiniteLossError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
