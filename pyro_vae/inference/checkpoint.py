"""What a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_atomically

CHECKPOINT = Path("checkpoints") / "last.pt"
PREVIOUS = Path("checkpoints") / "previous.pt"
METRICS = "metrics.jsonl"


def save_checkpoint(run: Path, state: dict[str, Any]) -> None:
    """Write the state as the run's last checkpoint; the one before is kept as ``previous.pt``."""
    last, previous = run / CHECKPOINT, run / PREVIOUS
    if last.exists():
        try:
            previous.unlink(missing_ok=True)
            previous.hardlink_to(last)  # a second name: at no moment is there no last.pt
        except OSError:  # a file system without hard links
            write_atomically(previous, lambda path: shutil.copyfile(last, path))
    write_atomically(last, lambda path: torch.save(state, path))


def load_checkpoint(run: Path) -> dict[str, Any] | None:
    """The run's last checkpoint (None: it has none); nothing in the file is executed.

    Raises:
        CorruptFileError: names a damaged file and says what can be done.
    """
    path = run / CHECKPOINT
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the reader fail in many ways
        remedy = (
            f"to resume from the checkpoint before it: mv {run / PREVIOUS} {path}"
            if (run / PREVIOUS).exists()
            else "there is no older checkpoint: train again into a new directory"
        )
        raise CorruptFileError(
            f"checkpoint {path} is damaged or truncated; {remedy}. The weights in model.safetensors can still be loaded"
        ) from error


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of a run's metrics log; a last line cut off by a kill is left out.

    Raises:
        CorruptFileError: if another line is not a JSON object.
    """
    path = run / METRICS
    if not path.exists():
        return []
    text = path.read_text(errors="replace")
    lines = text.splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("epoch"), int):
                raise ValueError("a record has an integer 'epoch'")
            records.append(record)
        except ValueError as error:
            if number == len(lines) and not text.endswith("\n"):
                break
            raise CorruptFileError(
                f"{path}, line {number}, is not a record of training: {error}. Remove the line, then go on"
            ) from error
    return records


def rewrite_metrics(run: Path, records: list[dict[str, Any]]) -> None:
    """Replace the log by these records, atomically."""
    text = "".join(json.dumps(r) + "\n" for r in records)
    write_atomically(run / METRICS, lambda path: path.write_text(text))


def append_metrics(run: Path, record: dict[str, Any]) -> None:
    """Add one record to the log.

    Raises:
        InputError: if it cannot be written (full disk, no permission).
    """
    try:
        with open(run / METRICS, "a") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise InputError(
            f"cannot write {run / METRICS}: {error}. The last checkpoint is unharmed; free some disk space, then resume"
        ) from error
