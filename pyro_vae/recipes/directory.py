"""A directory that a training belongs to: a run, a learned prior, a ranker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_vae.errors import InputError
from pyro_vae.files import write_json
from pyro_vae.inference import FitResult
from pyro_vae.inference.checkpoint import CHECKPOINT
from pyro_vae.recipes.sections import is_first_process

CONFIG, WEIGHTS, SUMMARY = "config.yaml", "model.safetensors", "summary.json"


@contextmanager
def nothing_left_if_refused(folders: Sequence[Path], written: Sequence[Path]) -> Iterator[None]:
    """Remove what was written for a training that is refused (``InputError``) before its first checkpoint.

    Args:
        folders: where the checkpoints would be.
        written: files.
    """
    try:
        yield
    except InputError:
        if is_first_process() and not any((folder / CHECKPOINT).exists() for folder in folders):
            for file in written:
                file.unlink(missing_ok=True)
        raise


def write_summary(folder: Path, result: FitResult, **head: Any) -> None:
    """Write what training returned, which says that it has come to its end."""
    summary = {
        **head,
        "epochs": result.epochs,
        "steps": result.steps,
        "best_epoch": result.best_epoch,
        "seconds": round(result.seconds, 1),
        "stopped": result.stopped,
    }
    if is_first_process():
        write_json(folder / SUMMARY, summary)
