"""The ``pyro-vae`` command."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from pyro_vae import __version__
from pyro_vae.errors import InputError, NonFiniteLossError, UsageError, exit_status, printable, unknown

COMMANDS = {  # name: the module of this folder that has it, which is loaded when it is used; what it does
    "train": ("train", "Train a recipe, or a YAML file of one's own, into a new run directory."),
    "resume": ("train", "Go on with an interrupted run, to the result that it would have had; or with a sweep."),
    "sweep": ("sweep", "Train a recipe with several seeds and settings, measure all, and rank them by validation."),
    "train-prior": (
        "second_stage",
        "Learn priors over a trained run's codes or latents, parts of it from then on.",
    ),
    "refit-guide": (
        "refit",
        "Fit a fresh guide to a trained run's model, which stays as it is, into a run that can be measured.",
    ),
    "train-ranker": ("second_stage", "Learn which texts belong to which images, to rank a run's samples of texts."),
    "evaluate": (
        "evaluate",
        "Measure a trained run: importance-weighted log-likelihood, ELBO with its parts, metrics.",
    ),
    "ais": ("anneal", "Measure a trained run by annealed importance sampling: tighter than weights, and dearer."),
    "bidirectional": ("anneal", "Bound log p(x) from below and above on data that a run's model has drawn."),
    "gap": ("anneal", "Tell what a run's ELBO and importance-weighted bounds lack of log p(x), and why."),
    "parzen": (
        "parzen",
        "Measure a run by a Gaussian kernel estimate on its samples: a figure of papers, not log p(x).",
    ),
    "report": ("report", "Write a page on a run (report.html): likelihood, latents, figures, configuration."),
    "compare": ("compare", "Set runs side by side (comparison.html), with paired differences and their errors."),
    "sample": ("sample", "Draw from a trained model: a picture, the arrays, sound as WAV files, texts, melodies."),
    "reconstruct": (
        "reconstruct",
        "Send data, or files of one's own, through the latents and back: pictures, arrays, sound, texts.",
    ),
    "interpolate": (
        "interpolate",
        "Go from one datum to another through latent space: a picture, the arrays, sound, texts.",
    ),
    "encode": (
        "encode",
        "Write the latents of data, or files of one's own, under the guide: means and scales, or codes.",
    ),
    "score": (
        "score",
        "Bound the log-likelihood of single data, or files of one's own, and list the lowest: anomalies.",
    ),
    "export": (
        "export",
        "Write a run's encoder, decoder and sampler as files for torch.export or ONNX, checked on the run's test data.",
    ),
    "explore": (
        "explore",
        "Write explorer.html: sliders over latents, the latent plane, morphs between data, decoded in the browser.",
    ),
    "feature-error": (
        "feature_errors",
        "Measure how far reconstructions are from data in the features of a frozen network, and in pixels.",
    ),
    "figures": ("show", "Draw every figure that applies to a run, and print where they are."),
    "push": ("hub", "Put a trained run into a repository of a hub (HF_ENDPOINT), with a card of what was measured."),
    "pull": ("hub", "Get a run from a repository of a hub (HF_ENDPOINT) into a new directory; nothing in it is run."),
    "recipes": ("show", "List the recipes, or print one: pyro-vae recipes NAME."),
    "check": ("check", "Check this machine: every way of training agrees, resumes exactly, and what a step takes."),
    "datasets": ("show", "List the datasets that --data.name knows; paths to arrays, or folders, work too."),
}
USAGE = """usage: pyro-vae [-h] [--version] [-q | -v] COMMAND …

Variational autoencoders as pairs of Pyro programs. What a command takes: pyro-vae COMMAND --help

commands:
{commands}

options:
  -h, --help     show this and exit
  --version      show the version and exit
  -q, --quiet    warnings and results only
  -v, --verbose  also what is done at each step
  --completion {{bash,zsh,tcsh}}
                 print a script that completes commands and options in that shell

exit status: 0 done, 1 a failure, 2 something in the command line that is not understood; a training that was stopped
and saved: 130 by Ctrl-C, 143 by SIGTERM, 138 by SIGUSR1
"""
LEVELS = {"-q": logging.WARNING, "--quiet": logging.WARNING, "-v": logging.DEBUG, "--verbose": logging.DEBUG}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (1: a failure, 2: a command line that is not understood)."""
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()  # a full disk, or a closed pipe, is noticed here
        return status
    except BrokenPipeError:  # who read our output has enough, as in `| head`
        _silence(sys.stdout)
        return 141  # what a process gives that the closed pipe has ended
    except KeyboardInterrupt as error:
        return exit_status(error)
    except MemoryError as error:
        return _refused(_out_of_memory(error))
    except RecursionError:
        return _refused("something that was read is nested too deeply")
    except OSError as error:
        about = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _refused(f"the system refused a file or a device: {about}")
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's
            return _refused(_out_of_memory(error))
        if not _of_the_machine(error):
            raise
        return _refused(str(error).splitlines()[0])


class _Printable(logging.Formatter):
    """Messages hold what files say, which is not to drive the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, printable."""
        return printable(super().format(record))


def _run(arguments: list[str]) -> int:
    level = logging.INFO
    while arguments and arguments[0] in LEVELS:
        level = LEVELS[arguments.pop(0)]
    _log(level)
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(USAGE.format(commands=columns({f"  {name}": what for name, (_, what) in COMMANDS.items()})), end="")
        elif arguments[0] == "--version":
            print(__version__)
        elif arguments[0] == "--completion":
            from pyro_vae.cli.parsing import completion_script

            print(completion_script(arguments[1:], {name: what for name, (_, what) in COMMANDS.items()}, command))
        else:
            command(arguments[0])(arguments[1:])
    except UsageError as error:
        return _refused(str(error), 2)
    except (InputError, NonFiniteLossError) as error:
        return _refused(str(error))
    return 0


def columns(rows: dict[str, str]) -> str:
    """Names and texts, a line each, the texts below one another."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows.items())


def command(name: str) -> Callable[[Sequence[str]], None]:
    """The function of a command.

    Raises:
        UsageError: for an unknown one, with the nearest name.
    """
    if name not in COMMANDS:
        raise UsageError(str(unknown("command", name, COMMANDS)))
    found: Callable[[Sequence[str]], None] = getattr(
        import_module(f"pyro_vae.cli.{COMMANDS[name][0]}"), name.replace("-", "_")
    )
    return found


def _log(level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger().setLevel(max(level, logging.INFO))
    logging.getLogger("pyro_vae").setLevel(logging.NOTSET if level == logging.INFO else level)  # of this command alone


def _refused(message: str, status: int = 1) -> int:
    try:
        print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    except OSError:  # nobody reads it
        _silence(sys.stderr)
    return status


def _out_of_memory(error: BaseException) -> str:
    return f"out of memory ({error}): smaller batches, fewer particles, less --memory-mib"


def _silence(stream: Any) -> None:
    """Keep the interpreter from writing what is left to a stream that is closed, when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _of_the_machine(error: RuntimeError) -> bool:
    """Whether PyTorch says by this error that memory is spent or that there is no such device."""
    text = str(error)
    return any(words in text for words in ("can't allocate memory", "CUDA", "NVIDIA", "not enough memory", "No space"))
