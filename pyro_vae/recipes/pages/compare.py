"""``write_comparison``: runs side by side, with paired differences."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae.errors import InputError, unknown
from pyro_vae.files import write_atomically, write_json
from pyro_vae.recipes.measure import MEMORY_MIB, Measured, check_options
from pyro_vae.recipes.pages.commands import page_command, trusted
from pyro_vae.recipes.pages.comparison_page import comparison_page
from pyro_vae.recipes.pages.pairing import measured_alike, paired
from pyro_vae.recipes.pages.subject import Subject, machine, now, versions
from pyro_vae.recipes.plain import plain
from pyro_vae.recipes.run import Run
from pyro_vae.recipes.sections import flattened

logger = logging.getLogger(__name__)
PAGE, JSON = "comparison.html", "comparison.json"
NOT_OPTIONS = ("version", "data_shape", "sound", "classes", "data_digest")  # of config.yaml: facts


def write_comparison(
    runs: Sequence[Run | str | Path],
    out: str | Path = ".",
    *,
    against: str | Path | None = None,
    split: str = "test",
    particles: int | None = None,
    limit: int | None = None,
    memory_mib: int = MEMORY_MIB,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    progress: bool = False,
) -> Path:
    """Write ``comparison.html``, one page that needs no other file, and ``comparison.json``.

    Differences are paired: the same data, datum by datum. They come from ``evaluation-<split>.npz`` where every run has
    one of the same data and of its present weights; else all runs are measured anew, alike, and their directories are
    left as they are.

    Args:
        runs: at least two runs, or their directories.
        out: the directory to write into.
        against: the run that the others are compared with; the first if None.
        split: the part of the data.
        particles: importance samples per datum; if given, all are measured anew (5000 where they must be).
        limit: the first so many data only; if given, all are measured anew.
        memory_mib: memory budget of a measurement's chunk.
        seed: of a measurement's particles.
        device: where to measure: "auto" (a GPU if there is one), "cpu", "cuda", …
        trust: allow class paths outside ``pyro_vae`` in the configurations; their code is run.
        progress: show a bar.

    Returns:
        the page.

    Raises:
        InputError: for fewer than two runs, one named twice, an unknown ``against``, data that differ, a split that
            they do not have, a measurement whose two files do not belong together, and as the estimators.
        CorruptFileError: if a file of a directory is damaged.
    """
    check_options(particles=particles, limit=limit, memory_mib=memory_mib, seed=seed, device=device)
    paths = [run.path if isinstance(run, Run) else Path(run) for run in runs]
    _check(paths)
    base = 0 if against is None else _place(paths, Path(against))
    subjects = [Subject.of(run, trust=trust) for run in runs]
    options = {"memory_mib": memory_mib, "seed": seed, "device": device, "progress": progress}
    measured, stored = measured_alike(subjects, split, particles, limit, **options)
    names = _names(paths)
    comparison = {
        "runs": [
            _row(subject, name, found, measured[base])
            for subject, name, found in zip(subjects, names, measured, strict=True)
        ],
        "against": names[base],
        "split": split,
        "num_data": measured[0].result["num_data"],
        "data": {"name": subjects[0].data.name, "description": subjects[0].described_data()},
        "data_digest": measured[0].result["data_digest"],
        "measured": "by pyro-vae evaluate" if stored else "for this page",
        "differences": _configured_differently(subjects, names),
        "warnings": _warnings(subjects, names, measured),
        "made": {"time": now(), "machine": machine(), "versions": versions()},
        "command": _command(subjects, out, against, None if split == "test" else split, particles, limit),
    }
    comparison = plain(comparison)
    logger.info("%s", "\n".join(_in_words(row) for row in comparison["runs"]))  # before it is written: disks are full
    write_json(Path(out) / JSON, comparison)
    text = comparison_page(comparison)
    write_atomically(Path(out) / PAGE, lambda path: path.write_text(text, encoding="utf-8"))
    return Path(out) / PAGE


def _in_words(row: Mapping[str, Any]) -> str:
    """A run's numbers in a line."""
    told = f"{row['name']}: log-likelihood {_number(row['log_likelihood'])}"
    if "difference" in row:
        paired = row["difference"]["log_likelihood"]
        told += f", paired difference {_number(paired['mean'])} +- {_number(paired['standard_error'])}"
    return f"{told} nats on {row['num_data']} data"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _check(paths: Sequence[Path]) -> None:
    if len(paths) < 2:
        raise InputError(f"a comparison needs at least two run directories, got {len(paths)}")
    resolved = [path.resolve() for path in paths]
    twice = next((path for i, path in enumerate(paths) if path.resolve() in resolved[:i]), None)
    if twice is not None:
        raise InputError(f"{twice} is named twice: a comparison is of different runs")


def _place(paths: Sequence[Path], against: Path) -> int:
    resolved = [path.resolve() for path in paths]
    if against.resolve() not in resolved:
        raise unknown("run to compare against", str(against), map(str, paths))
    return resolved.index(against.resolve())


def _names(paths: Sequence[Path]) -> list[str]:
    """The directories' names; their paths, where two have one name."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _row(subject: Subject, name: str, measured: Measured, base: Measured) -> dict[str, Any]:
    """What is said of one run."""
    keys = (
        "log_likelihood",
        "standard_error",
        "bits_per_dim",
        "bits_of",
        "density",
        "num_particles",
        "num_data",
        "elbo",
    )
    keys += ("kl", "given")
    keys += ("elbo_standard_error", "reconstruction", "effective_sample_size", "pareto_k_max", "pareto_k_above", "seed")
    told = {key: measured.result[key] for key in keys if key in measured.result}
    if measured is not base:
        ours, theirs = measured.per_datum, base.per_datum
        told["difference"] = {key: paired(ours[key], theirs[key]) for key in ("log_likelihood", "elbo")}
    return {
        "name": name,
        "run": str(subject.path),
        "recipe": subject.run.recipe if subject.run else None,
        "classes": subject.classes(),
        "parameters": subject.parameters(),
        "training": subject.training.to_dict(),
        **told,
    }


def _configured_differently(subjects: Sequence[Subject], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By option, what each run has, where they are not all the same."""
    flat = [flattened({k: v for k, v in s.config.items() if k not in NOT_OPTIONS}) for s in subjects]
    found = {}
    for option in dict.fromkeys(option for config in flat for option in config):
        values = [config.get(option) for config in flat]
        if any(value != values[0] for value in values):
            found[option] = dict(zip(names, values, strict=True))
    return found


def _warnings(subjects: Sequence[Subject], names: Sequence[str], measured: Sequence[Measured]) -> list[str]:
    said = []
    for subject, name, found in zip(subjects, names, measured, strict=True):
        of_run = [*subject.training.warnings(subject.path), *found.result.get("warnings", [])]
        said += [f"{name}: {words}" for words in of_run]
    particles = [found.result["num_particles"] for found in measured]
    if len(set(particles)) > 1:
        told = ", ".join(f"{name} {k:,}" for name, k in zip(names, particles, strict=True))
        said.append(f"The numbers of particles differ ({told}): a bound with more of them is tighter.")
    given = [", ".join(found.result.get("given", [])) or "nothing" for found in measured]
    if len(set(given)) > 1:
        told = "; ".join(f"{name}: {what}" for name, what in zip(names, given, strict=True))
        said.append(f"What the models are given differs ({told}): these are log-likelihoods of different questions.")
    densities = [name for name, found in zip(names, measured, strict=True) if found.result.get("density")]
    others = [name for name, found in zip(names, measured, strict=True) if found.result.get("density") is False]
    if densities and others:
        said.append(
            f"Some bounds are of densities of the data ({', '.join(densities)}), others of probabilities of their "
            f"levels ({', '.join(others)}): neither nats nor bits per dimension of the two compare."
        )
    return said


def _command(
    subjects: Sequence[Subject],
    out: str | Path,
    against: str | Path | None,
    split: str | None,
    particles: int | None,
    limit: int | None,
) -> str:
    options = {"against": against, "split": split, "particles": particles, "limit": limit}
    options |= {"out": None if Path(out) == Path() else out}
    trust = next((flag for subject in subjects if subject.run and (flag := trusted(subject.run))), [])
    return page_command("compare", [str(subject.path) for subject in subjects], options, trust)
