"""What lies in a run directory: measurements, the course of training, how it was configured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vae.errors import CorruptFileError
from pyro_vae.inference.checkpoint import CHECKPOINT, METRICS, read_metrics
from pyro_vae.recipes.directory import SUMMARY
from pyro_vae.recipes.measure import SPLITS
from pyro_vae.recipes.measurement_files import read_json

NUMBER = int | float | None
OBJECTS = ("kl", "reconstruction")
EVALUATION = {
    **dict.fromkeys(("num_particles", "num_data"), int),
    **dict.fromkeys(("log_likelihood", "standard_error", "pareto_k_above"), NUMBER),
    **{"kl": [NUMBER], "reconstruction": [NUMBER], "given": [str], "warnings": [str]},
}
SUMMARIZED = {"seconds": NUMBER, "epochs": NUMBER}
MEASUREMENTS = re.compile(r"(ais|sandwich|gap)(-\w+)?\.json")


def stored_evaluations(path: Path) -> dict[str, dict[str, Any]]:
    """What ``pyro-vae evaluate`` has left, by part of the data.

    Raises:
        CorruptFileError: if a file is damaged, or lacks the log-likelihood.
    """
    found = {}
    for split in SPLITS:
        file = path / f"evaluation-{split}.json"
        if file.is_file():
            found[split] = read_json(file)
            for key in ("log_likelihood", "standard_error", "num_particles", "num_data"):
                if key not in found[split]:
                    raise CorruptFileError(f"{file} has no '{key}': measure again, with pyro-vae evaluate {path}")
            found[split].setdefault("split", split)
            _check_kinds(found[split], EVALUATION, file)
    return found


def _check_kinds(values: Mapping[str, Any], kinds: Mapping[str, Any], file: Path) -> None:
    """Check that the entries of a JSON object, where they are there, are what a page takes them for.

    Args:
        values: the object.
        kinds: of its entries, by name; that of the values in a list or an object is said as ``[kind]``.
        file: where it is from.

    Raises:
        CorruptFileError: names the file and the entry.
    """
    for key, kind in kinds.items():
        value = values.get(key)
        inner = list(value.values() if isinstance(value, dict) else value) if isinstance(value, dict | list) else []
        whole = (dict if key in OBJECTS else list) if isinstance(kind, list) else kind
        each = kind[0] if isinstance(kind, list) else object
        if key in values and not (isinstance(value, whole) and all(isinstance(one, each) for one in inner)):
            raise CorruptFileError(f"{file}: '{key}' is not what was saved there; remove the file, or measure again")


def stored_measurements(path: Path) -> dict[str, dict[str, Any]]:
    """Other measurements, by the file's name without ``.json``: annealed importance sampling, sandwich, gap."""
    files = sorted(file for file in path.glob("*.json") if MEASUREMENTS.fullmatch(file.name))
    return {file.stem: read_json(file) for file in files}


@dataclass
class Training:
    """The course of a training, as its directory tells it.

    Attributes:
        records: the lines of ``metrics.jsonl``.
        summary: what was written at its end; None if it did not come to one.
        resumable: whether there is a checkpoint to go on from.
        configured: how many epochs it was to have; None if that is not known.
    """

    records: list[dict[str, Any]]
    summary: dict[str, Any] | None
    resumable: bool
    configured: int | None = None

    @classmethod
    def of(cls, path: Path, configured: int | None = None) -> Training:
        """Read a directory."""
        file = path / SUMMARY
        summary = read_json(file) if file.is_file() else None
        _check_kinds(summary or {}, SUMMARIZED, file)
        records = read_metrics(path)
        _check_kinds(records[-1] if records else {}, SUMMARIZED, path / METRICS)
        return cls(records, summary, (path / CHECKPOINT).is_file(), configured)

    @property
    def minutes(self) -> float | None:
        """Of training, as far as it came."""
        last = self.records[-1].get("seconds") if self.records else None
        seconds = self.summary.get("seconds", last) if self.summary else last
        return None if seconds is None else seconds / 60

    def to_dict(self) -> dict[str, Any]:
        """What is said of it."""
        last = self.records[-1] if self.records else {}
        told = dict(self.summary or {})
        best = next((r["epoch"] for r in reversed(self.records) if r.get("best")), None)
        return {
            "finished": self.summary is not None,
            "epochs": told.get("epochs", last.get("epoch", 0)),
            "configured_epochs": self.configured,
            "steps": told.get("steps", last.get("step")),
            "best_epoch": told.get("best_epoch", best),
            "minutes": self.minutes,
            "stopped": told.get("stopped"),
            "train_loss": last.get("train/loss"),
            "validation_loss": last.get("validation/loss"),
        }

    def warnings(self, path: Path) -> list[str]:
        """What a reader of the run's numbers should know of it; nothing of a training that came to its end."""
        if self.summary is not None:
            return []
        if not self.records:
            return [
                "No training is recorded here: the weights are what was saved at the start, perhaps the initial ones."
            ]
        done = f"{self.records[-1]['epoch']} epochs" + (f" of {self.configured}" if self.configured else "")
        on = f" Go on with: pyro-vae resume {path}" if self.resumable else ""
        return [f"Training has not come to its end: {done} are recorded. All here is of the weights saved last.{on}"]
