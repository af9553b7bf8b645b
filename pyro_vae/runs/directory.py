"""Directories that belong to one training: a run, a learned prior, or a ranker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from jsonargparse import Namespace
from torch import Tensor

from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_json
from pyro_vae.runs.sections import CONFIG, is_first_process
from pyro_vae.training import FitResult
from pyro_vae.training.checkpoint import CHECKPOINT, PREVIOUS, WEIGHTS, are_trained
from pyro_vae.training.metrics import METRICS

SUMMARY = "summary.json"
TOKENS = "tokens.json"  # what the integers of the data stand for, if they are tokens
WHOLE = ("checkpoints", "first", "priors", "ranker")  # folders
TARGETS = (CONFIG, WEIGHTS, TOKENS, SUMMARY, METRICS, *WHOLE)  # what a training makes


def check_free(folder: Path) -> None:
    """Check that a new training would replace nothing in a directory.

    Raises:
        InputError: names what is there already.
    """
    there = [name for name in TARGETS if (folder / name).exists() or (folder / name).is_symlink()]
    left = there in ([WEIGHTS], [WEIGHTS, TOKENS]) and not any((folder / name).is_symlink() for name in there)
    if left and not are_trained(folder / WEIGHTS):
        return  # initial weights that a kill left before there was a configuration
    if {CONFIG, "checkpoints"} <= {*there} or {CONFIG, WEIGHTS} <= {*there}:
        raise InputError(
            f"{folder} holds a run already: resume it (pyro-vae resume {folder}) or choose another directory (--out)"
        )
    if there:
        raise InputError(
            f"{folder} holds {', '.join(there)} already, which training would replace: choose another directory (--out)"
        )


@contextmanager
def nothing_left_if_refused(folders: Sequence[Path], written: Sequence[Path], config: Namespace) -> Iterator[None]:
    """Remove what was written for a training that is refused (``InputError``) before its first checkpoint.

    Args:
        folders: where the checkpoints would be.
        written: files that this process has written.
        config: of the training.
    """
    try:
        yield
    except InputError:
        if is_first_process(config) and not any(
            (folder / checkpoint).exists() for folder in folders for checkpoint in (CHECKPOINT, PREVIOUS)
        ):
            for file in written:
                file.unlink(missing_ok=True)
        raise


def write_summary(folder: Path, result: FitResult, config: Namespace, **head: Any) -> None:
    """Write what training returned, which says that it has come to its end."""
    summary = {
        **head,
        "epochs": result.epochs,
        "steps": result.steps,
        "best_epoch": result.best_epoch,
        "seconds": round(result.seconds, 1),
        "stopped": result.stopped,
    }
    if is_first_process(config):
        write_json(folder / SUMMARY, summary)


def digest_of_weights(weights: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of names and bytes of tensors, in this order."""
    found = hashlib.sha256()
    for name, value in weights:
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def stored_weights_digest(file: Path) -> str:
    """:func:`~pyro_vae.runs.measurements.weights_digest` of a weights file, of a run without learned priors.

    Raises:
        CorruptFileError: if it cannot be read.
    """
    try:
        with safetensors.safe_open(file, "pt") as opened:
            return digest_of_weights((name, opened.get_tensor(name)) for name in sorted(opened.keys()))
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise CorruptFileError(f"{file} cannot be read as weights: {error}") from error
