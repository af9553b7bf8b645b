"""The log of a training run: one record an epoch, a JSON object a line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_atomically

METRICS = "metrics.jsonl"
MOST_METRICS = 1 << 28  # bytes of a log


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of a run's metrics log; a last line cut off by a kill is left out.

    Raises:
        CorruptFileError: if another line is not a JSON object of finite numbers, or it is no file, or huge.
    """
    path = run / METRICS
    if not path.exists():
        return []
    if not path.is_file() or path.stat().st_size > MOST_METRICS:
        raise CorruptFileError(
            f"{path} should be a log of training, a file of at most {MOST_METRICS >> 20} MiB: remove it, and go on"
        )
    text = path.read_text(errors="replace")
    lines = text.splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("epoch"), int):
                raise ValueError("a record has an integer 'epoch'")
            odd = next((key for key, value in record.items() if not _finite(value)), None)
            if odd is not None:
                raise ValueError(f"'{odd}' is no finite number")
            records.append(record)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not text.endswith("\n"):
                break
            words = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise CorruptFileError(
                f"{path}, line {number}, is not a record of training: {words}. Remove the line, then go on"
            ) from error
    return records


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def rewrite_metrics(run: Path, records: list[dict[str, Any]]) -> None:
    """Replace the log by these records, atomically."""
    text = "".join(json.dumps(r, allow_nan=False) + "\n" for r in records)
    write_atomically(run / METRICS, lambda path: path.write_text(text))


def append_metrics(run: Path, record: dict[str, Any]) -> None:
    """Add one record to the log.

    Raises:
        InputError: if it cannot be written (full disk, no permission).
    """
    line = json.dumps(record, allow_nan=False) + "\n"
    try:
        handle = os.open(run / METRICS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        with open(handle, "a") as file:
            file.write(line)
    except OSError as error:
        raise InputError(
            f"cannot write {run / METRICS}: {error}. The last checkpoint is unharmed; free some disk space, then resume"
        ) from error
