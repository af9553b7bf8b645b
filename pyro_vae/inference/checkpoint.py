"""What a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import check_no_links, write_atomically
from pyro_vae.inference.fingerprint import state_digest
from pyro_vae.inference.weights import are_trained

CHECKPOINT = Path("checkpoints") / "last.pt"
PREVIOUS = Path("checkpoints") / "previous.pt"
METRICS, WEIGHTS = "metrics.jsonl", "model.safetensors"
FILES = (str(CHECKPOINT), str(PREVIOUS), METRICS, WEIGHTS)  # what training writes
DAMAGED = "the last one is damaged"  # of a state that was read from the checkpoint before it
SCHEMA: dict[str, Any] = {  # what a checkpoint holds; a finished one of an older version has its progress alone
    "progress": dict,
    **dict.fromkeys(("experiment", "weights", "optimizer", "best_weights", "rng", "precision"), dict | None),
    "ema": list | tuple | None,
    "names": list | tuple | None,
}
logger = logging.getLogger(__name__)


def save_checkpoint(run: Path, state: dict[str, Any]) -> None:
    """Write the state as the run's last checkpoint, with its digest; the one before is kept as ``previous.pt``."""
    last, previous = run / CHECKPOINT, run / PREVIOUS
    if last.exists():
        try:
            previous.unlink(missing_ok=True)
            previous.hardlink_to(last)  # a second name: at no moment is there no last.pt
        except OSError:  # a file system without hard links
            write_atomically(previous, lambda path: shutil.copyfile(last, path))
    whole = {**state, "digest": state_digest(state)}
    write_atomically(last, lambda path: torch.save(whole, path))


def load_checkpoint(run: Path) -> dict[str, Any] | None:
    """The run's last checkpoint that can be read (None: it has none); nothing in the file is executed.

    If the last one is damaged, the one before it is taken, the log says so, and so does the state's entry ``DAMAGED``.

    Raises:
        CorruptFileError: if there is none that can be read; says what can be done.
    """
    paths = [run / path for path in (CHECKPOINT, PREVIOUS) if (run / path).exists()]
    for path in paths:
        try:
            state = _read(path)
        except PermissionError as error:
            raise InputError(f"cannot read checkpoint {path}: {error.strerror}") from error
        except Exception as error:  # damaged bytes make the reader fail in many ways
            logger.warning("checkpoint %s is damaged: %s", path, str(error).split(". ")[0][:120])
            continue
        if path != paths[0]:
            logger.warning("going on from the checkpoint before it, %s", path)
            state[DAMAGED] = True
        return state
    if paths:
        raise CorruptFileError(
            f"checkpoint {' and '.join(map(str, paths))} {'are' if len(paths) > 1 else 'is'} damaged or truncated: "
            "train again into a new directory. The weights in model.safetensors can still be loaded"
        )
    return None


def _read(path: Path) -> dict[str, Any]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    odd = isinstance(state, dict) and next(
        (k for k, kind in SCHEMA.items() if not isinstance(state.get(k), kind)), None
    )
    if not isinstance(state, dict) or odd or not _texts(state.get("experiment")):
        raise ValueError(f"it is not one that pyro_vae's training saved ({odd or 'no state'})")
    digest = state.pop("digest", None)  # older ones have none
    if digest is not None and digest != state_digest(state):
        raise ValueError("its contents are not those that were saved, bits have changed")
    return state


def _texts(value: Any) -> bool:
    """Whether a value is missing, or texts by their names."""
    return value is None or all(isinstance(each, str) for pair in value.items() for each in pair)


def check_directory(run: Path, resume: bool) -> None:
    """Check that training may write in a directory.

    Raises:
        InputError: if there is a run already that is not to be resumed, or one to be resumed that has lost its
            checkpoints; if something there is a link.
    """
    check_no_links(run, FILES)
    if resume:
        trained = [name for name in (WEIGHTS, METRICS, "summary.json") if _says_of_training(run / name)]
        if trained and not any((run / path).exists() for path in (CHECKPOINT, PREVIOUS)):
            raise InputError(
                f"{run} holds a trained run ({', '.join(trained)}) without {CHECKPOINT}, which going on with it needs; "
                "nothing was changed. Put the directory checkpoints back, or train into a new directory"
            )
        return
    there = [name for name in FILES if _says_of_training(run / name)]
    if there:
        raise InputError(
            f"out: {run} holds {', '.join(there)} already, which training would replace; go on with it (resume=True), "
            "or choose another directory"
        )


def _says_of_training(file: Path) -> bool:
    if file.name == WEIGHTS:
        return file.exists() and are_trained(file)
    return file.exists() and file.stat().st_size > 0


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
            odd = next((key for key, value in record.items() if not isinstance(value, int | float)), None)
            if odd is not None:
                raise ValueError(f"'{odd}' is no number")
            records.append(record)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not text.endswith("\n"):
                break
            told = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise CorruptFileError(
                f"{path}, line {number}, is not a record of training: {told}. Remove the line, then go on"
            ) from error
    return records


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
