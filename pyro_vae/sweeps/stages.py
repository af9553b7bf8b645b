"""How far a run of a sweep has come, and whether what lies in its directory is that run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import read_yaml
from pyro_vae.runs.directory import CONFIG, SUMMARY, WEIGHTS, stored_weights_digest
from pyro_vae.runs.measurements import not_together, read_json, read_together
from pyro_vae.runs.sections import flattened
from pyro_vae.sweeps.plan import Member, Plan
from pyro_vae.training.metrics import METRICS


def is_begun(run: Path) -> bool:
    """Whether there is a run to go on with."""
    return (run / CONFIG).is_file()


def is_trained(run: Path) -> bool:
    """Whether its training has come to its end."""
    return is_begun(run) and (run / SUMMARY).is_file() and (run / WEIGHTS).is_file()


def is_measured(run: Path, split: str, plan: Plan) -> bool:
    """Whether a part of the data was measured as the plan says, with the weights that the run has now."""
    name = f"evaluation-{split}"
    try:
        if not (run / f"{name}.json").is_file() or not_together(run, name) is not None:
            return False
        said = read_json(run / f"{name}.json")
        # a run with learned priors is measured with them
        return (said.get("num_particles"), said.get("seed"), said.get("split")) == (plan.particles, 0, split) and (
            said.get("weights_digest") == stored_weights_digest(run / WEIGHTS) or (run / "priors").is_dir()
        )
    except CorruptFileError:
        return False


def is_done(run: Path, plan: Plan) -> bool:
    """Whether nothing is left to do."""
    return is_trained(run) and all(is_measured(run, split, plan) for split in plan.splits)


def epochs_done(run: Path) -> int:
    """Epochs that its log tells of."""
    try:
        return (run / METRICS).read_bytes().count(b"\n")
    except OSError:
        return 0


def check_member(folder: Path, plan: Plan, run: Member) -> None:
    """Check that what lies in a run's directory was configured as the plan says.

    Raises:
        InputError: names the option that was not.
    """
    config = _configuration(folder / run.name)
    expected = {"seed": str(run.seed), **plan.settings[run.setting]}
    for key, text in expected.items():
        value = yaml.safe_load(text)
        if key in config and str(config[key]) != text and not _same(config[key], value):  # "off" is a text here
            raise InputError(
                f"{folder / run.name} is not the run that its name says: its {key} is {config[key]!r}, not {text}. "
                f"Remove or rename the directory, and resume"
            )


def check_alike(folder: Path, plan: Plan, runs: Sequence[Member]) -> None:
    """Check that a setting's runs differ in their seeds alone.

    Raises:
        InputError: names the option in which they differ.
    """
    first: dict[int, tuple[str, dict[str, Any]]] = {}
    for run in runs:
        config = _configuration(folder / run.name)
        name, other = first.setdefault(run.setting, (run.name, config))
        differ = [key for key in {**config, **other} if config.get(key) != other.get(key)]
        differ = [key for key in differ if key != "seed" and not key.startswith(("version", "data.root", "data.name"))]
        if differ:
            raise InputError(
                f"{folder}: {run.name} and {name} are of one setting, but differ in {', '.join(sorted(differ)[:3])}"
            )


def arrays_of(folder: Path, run: Member, split: str) -> tuple[Mapping[str, Any], np.ndarray]:
    """A measurement of a run: its summary, and the log-likelihood of each datum, nats."""
    path = folder / run.name
    found = read_together(path, f"evaluation-{split}", f"pyro-vae evaluate {path} --split {split}")
    if found is None or "log_likelihood" not in found[1]:
        raise InputError(f"{path} has no measurement of {split}")
    return found[0], found[1]["log_likelihood"]


def _configuration(run: Path) -> dict[str, Any]:
    return flattened(read_yaml(run / CONFIG))


def _same(stored: Any, said: Any) -> bool:
    if isinstance(said, str):  # 1e-3 is a text to YAML, and names of classes are completed
        try:
            return bool(float(said) == stored)
        except (TypeError, ValueError):
            return not isinstance(stored, str) or stored.rpartition(".")[2] == said.rpartition(".")[2]
    if isinstance(said, list) and isinstance(stored, list | tuple):
        return len(said) == len(stored) and all(_same(a, b) for a, b in zip(stored, said, strict=True))
    return bool(stored == said)
