"""The ``pyro-vae`` command."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import jsonargparse
import torch

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
from pyro_vae.errors import InputError, NonFiniteLossError, printable, unknown

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
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()  # a full disk, or a closed pipe, is noticed here
        return status
    except BrokenPipeError:  # who read our output has enough, as in `| head`
        _silence(sys.stdout)
        return 141  # what a process gives that the closed pipe has ended
    except KeyboardInterrupt:
        return 130
    except (MemoryError, torch.OutOfMemoryError) as error:
        return _refused(f"out of memory ({error}): smaller batches, fewer particles, less --memory_mib")
    except RecursionError:
        return _refused("something that was read is nested too deeply")
    except OSError as error:
        about = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _refused(f"the system refused a file or a device: {about}")
    except RuntimeError as error:
        if not _of_the_machine(error):
            raise
        return _refused(str(error).splitlines()[0])


class _Printable(logging.Formatter):
    """Messages hold what files say, which is not to drive the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, printable."""
        return printable(super().format(record))


def _run(arguments: list[str]) -> int:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
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
        return _refused(str(error))
    return 0


def _refused(message: str) -> int:
    try:
        print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    except OSError:  # nobody reads it
        _silence(sys.stderr)
    return 2


def _silence(stream: Any) -> None:
    """Keep the interpreter from writing what is left to a stream that is closed, when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _of_the_machine(error: RuntimeError) -> bool:
    """Whether PyTorch says by this error that memory is spent or that there is no such device."""
    told = str(error)
    return any(words in told for words in ("can't allocate memory", "CUDA", "NVIDIA", "not enough memory", "No space"))
