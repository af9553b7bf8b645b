"""``write_comparison``: runs side by side, measured on the very same data, with paired differences."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae.data import Split
from pyro_vae.data.split import split_digest
from pyro_vae.errors import CorruptFileError, InputError, unknown
from pyro_vae.evaluation.results import mean_and_error
from pyro_vae.files import write_atomically, write_json
from pyro_vae.reports.comparison_page import comparison_page
from pyro_vae.reports.seed_groups import in_words, seed_groups
from pyro_vae.reports.stored import EVALUATION, TrainedPair, made, page_command, stored_evaluations, trusted
from pyro_vae.runs.measurements import (
    MEMORY_MIB,
    PARTICLES,
    Measured,
    check_options,
    measure,
    part_of,
    plain,
    read_together,
    weights_digest,
)
from pyro_vae.runs.run import Run
from pyro_vae.runs.sections import flattened

logger = logging.getLogger(__name__)

NEEDED = ("log_likelihood", "elbo")


def measured_alike(
    pairs: Sequence[TrainedPair],
    split: str,
    particles: int | None,
    limit: int | None,
    **options: Any,
) -> tuple[list[Measured], bool]:
    """Measurements of all runs on the same data: those that lie in their directories, or new ones.

    Stored ones serve if every run has one, of its present weights, on the same data; and no other particles or limit
    are asked for. New ones are not written into the directories.

    Args:
        subjects: the runs.
        split: the part of the data.
        particles, limit: of new measurements; None: any stored one, or 5000 and all data.
        options: as for :func:`~pyro_vae.runs.measurements.measure`.

    Returns:
        the measurements, and whether they are the stored ones.

    Raises:
        InputError: if the runs' data differ, or every pass over them draws others; if a stored measurement's two files
            do not belong together, or one is missing.
        CorruptFileError: if one is damaged.
    """
    parts = [part_of(trained.data, split, limit) for trained in pairs]
    _check_same(pairs, parts, split)
    why = "--particles or --limit asks for it" if (particles, limit) != (None, None) else None
    stored = [] if why else [_stored(trained, split) for trained in pairs]
    for trained, found in zip(pairs, stored, strict=False):
        if why is None and isinstance(found, str):
            why = f"{trained.path}: {found}"
    there = [found for found in stored if isinstance(found, Measured)]
    if why is None and len({(found.result["data_digest"], found.result["num_data"]) for found in there}) > 1:
        why = "the stored measurements are of different data, or of different numbers of them"
    if why is None:
        return there, True
    k = PARTICLES if particles is None else particles
    logger.info("measuring all runs with K = %d on %d data (%s)", k, len(parts[0]), why)
    measured = []
    for trained in pairs:
        logger.info("%s", trained.path)
        programs = trained.model, trained.guide, trained.data
        measured.append(measure(*programs, split, particles=k, limit=limit, **options))
    return measured, False


def paired(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    r"""The mean of the differences datum by datum, and its standard error.

    .. math:: \bar d = \frac1n \sum_i d_i, \quad \mathrm{se} = \mathrm{sd}(d) / \sqrt n, \quad d_i = a_i - b_i

    Args:
        ours, theirs: a and b, nats, ``(num_data,)`` each, of the same data in the same order.

    Returns:
        ``mean`` and ``standard_error`` (nats), and ``better``, the part of the data with a_i > b_i.
    """
    differences = torch.as_tensor(ours) - torch.as_tensor(theirs)  # not NumPy's, which warns of inf - inf
    mean, error = mean_and_error(differences)
    return {"mean": mean, "standard_error": error, "better": (differences > 0).double().mean().item()}


def mixture(bounds: Sequence[np.ndarray]) -> np.ndarray:
    r"""All models as one, drawn from with equal probability: what it gives each datum.

    .. math:: \log p(x) = \log \frac1M \sum_{m=1}^M p_m(x)

    Which model a datum is of is a latent that is summed over exactly. With the models' importance-weighted bounds,
    whose exponentials are unbiased, it is such a bound itself.

    Args:
        bounds: of each model, nats, ``(num_data,)`` each, of the same data in the same order.

    Returns:
        ``(num_data,)``, nats.
    """
    return np.logaddexp.reduce(np.stack(bounds)) - np.log(len(bounds))


def _mixture(names: Sequence[str], measured: Sequence[Measured]) -> dict[str, Any] | None:
    """What is said of the mixture of all; None where the numbers do not compare, or are not finite."""
    bounds = [found.per_datum["log_likelihood"] for found in measured]
    if _unlike(names, measured) or not all(np.isfinite(each).all() for each in bounds):
        return None
    together, best = mixture(bounds), int(np.argmax([each.mean() for each in bounds]))
    mean, error = mean_and_error(torch.as_tensor(together))
    gained = paired(together, bounds[best])
    return {"log_likelihood": mean, "standard_error": error, "best": names[best], "difference": gained}


def _stored(trained: TrainedPair, split: str) -> Measured | str:
    """The measurement in a run's directory, or why it cannot serve."""
    again = f"pyro-vae evaluate {trained.path} --split {split}"
    found = read_together(trained.path, f"evaluation-{split}", again)
    if found is None:
        return f"it has no numbers of each datum of {split}"
    result, arrays = stored_evaluations(trained.path)[split], found[1]
    shapes = {arrays[name].shape if name in arrays else None for name in NEEDED}
    if "data_digest" not in result or shapes != {(result["num_data"],)}:
        raise CorruptFileError(f"{trained.path}: evaluation-{split} is not whole. Measure again: {again}")
    if result.get("weights_digest") not in (None, weights_digest(trained.model, trained.guide)):
        return "it was measured with other weights than it has now"
    return Measured(result, arrays)


def _check_same(pairs: Sequence[TrainedPair], parts: Sequence[Split], split: str) -> None:
    """Every run's data must be the first one's."""
    if parts[0].binarization == "dynamic":
        raise InputError(
            f"the {split} data of {pairs[0].path} are binarized anew at every pass, so that no two measurements see "
            "the same data: compare on validation or test"
        )
    first = split_digest(parts[0])
    for trained, part in zip(pairs[1:], parts[1:], strict=True):
        if split_digest(part) != first:
            said = _difference(pairs[0], trained, parts[0], part)
            raise InputError(
                f"{pairs[0].path} and {trained.path} cannot be compared datum by datum: their {split} data differ "
                f"{said}"
            )


def _difference(a: TrainedPair, b: TrainedPair, part_a: Split, part_b: Split) -> str:
    """In what the data of two runs differ, for people."""
    if part_a.shape != part_b.shape:
        return f"in shape, {part_a.shape} and {part_b.shape}"
    ours, theirs = (_data_options(trained.config) for trained in (a, b))
    found = [
        f"{name} {ours.get(name)} and {theirs.get(name)}"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]
    if len(part_a) != len(part_b):
        found.append(f"number {len(part_a)} and {len(part_b)}")
    return f"in {', '.join(found)}" if found else "in their contents, though they are configured alike"


def _data_options(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in dict(config.get("data") or {}).items() if name != "root"}


PAGE, JSON = "comparison.html", "comparison.json"
FACTS_OF_DATA = ("data_shape", "context_shapes", "sound", "classes", "pictures", "data_digest")
NOT_OPTIONS = ("version", *FACTS_OF_DATA)  # of config.yaml


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

    Differences are paired: the same data, datum by datum. Runs that differ in their seeds alone are also taken
    together, and one such group is compared with another over seeds and data
    (:func:`~pyro_vae.evaluation.compare_seeds`). The numbers come from ``evaluation-<split>.npz`` where every run has
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
    pairs = [TrainedPair.of(run, trust=trust) for run in runs]
    options = {"memory_mib": memory_mib, "seed": seed, "device": device, "progress": progress}
    measured, stored = measured_alike(pairs, split, particles, limit, **options)
    names = _names(paths)
    comparison = {
        "runs": [
            _row(trained, name, found, measured[base])
            for trained, name, found in zip(pairs, names, measured, strict=True)
        ],
        "against": names[base],
        "split": split,
        "num_data": measured[0].result["num_data"],
        "data": {"name": pairs[0].data.name, "description": pairs[0].described_data()},
        "data_digest": measured[0].result["data_digest"],
        "measured": "by pyro-vae evaluate" if stored else "for this page",
        "seeds": seed_groups(pairs, names, [found.per_datum for found in measured], base),
        "mixture": _mixture(names, measured),
        "differences": _configured_differently(pairs, names),
        "warnings": _warnings(pairs, names, measured),
        "made": made(),
        "command": _command(pairs, out, against, None if split == "test" else split, particles, limit),
    }
    comparison = plain(comparison)
    lines = [_in_words(row) for row in comparison["runs"]] + in_words(comparison["seeds"])
    if together := comparison["mixture"]:
        lines.append(_mixture_in_words(together))
    logger.info("%s", "\n".join(lines))  # before it is written: disks are full
    for words in _unlike(names, measured):
        logger.warning("warning: %s", words)
    write_json(Path(out) / JSON, comparison)
    text = comparison_page(comparison)
    write_atomically(Path(out) / PAGE, lambda path: path.write_text(text, encoding="utf-8"))
    return Path(out) / PAGE


def _in_words(row: Mapping[str, Any]) -> str:
    """A run's numbers in a line."""
    of = f" of {row['density_of']}" if row.get("density_of") else ""
    entry = f"{row['name']}: log-likelihood{of} {_number(row['log_likelihood'])}"
    if "difference" in row:
        paired = row["difference"]["log_likelihood"]
        entry += f", paired difference {_number(paired['mean'])} +- {_number(paired['standard_error'])}"
    return f"{entry} nats on {row['num_data']} data"


def _mixture_in_words(together: Mapping[str, Any]) -> str:
    """The mixture's numbers in a line."""
    gained = together["difference"]
    return (
        f"all as one mixture, equally weighted: log-likelihood {_number(together['log_likelihood'])}, paired "
        f"difference from {together['best']}, the best, {_number(gained['mean'])} +- "
        f"{_number(gained['standard_error'])} nats"
    )


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


def _row(trained: TrainedPair, name: str, measured: Measured, base: Measured) -> dict[str, Any]:
    """What is said of one run."""
    entry = {key: measured.result[key] for key in EVALUATION if key in measured.result}
    if measured is not base:
        ours, theirs, each = measured.per_datum, base.per_datum, (measured.result["num_data"],)
        both = [name for name in ours if name in NEEDED or ("." in name and name in theirs)]  # of metrics: with a dot
        kept = [name for name in both if ours[name].shape == theirs[name].shape == each]
        entry["difference"] = {name: paired(ours[name], theirs[name]) for name in kept}
    return {
        "name": name,
        "run": str(trained.path),
        "recipe": trained.run.recipe if trained.run else None,
        "classes": trained.classes(),
        "parameters": trained.parameters(),
        "training": trained.training.to_dict(),
        **entry,
    }


def _configured_differently(pairs: Sequence[TrainedPair], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By option, what each run has, where they are not all the same."""
    flat = [flattened({k: v for k, v in s.config.items() if k not in NOT_OPTIONS}) for s in pairs]
    found = {}
    for option in dict.fromkeys(option for config in flat for option in config):
        values = [config.get(option) for config in flat]
        if any(value != values[0] for value in values):
            found[option] = dict(zip(names, values, strict=True))
    return found


def _warnings(pairs: Sequence[TrainedPair], names: Sequence[str], measured: Sequence[Measured]) -> list[str]:
    said = []
    for trained, name, found in zip(pairs, names, measured, strict=True):
        of_run = [*trained.training.warnings(trained.path), *found.result.get("warnings", [])]
        said += [f"{name}: {words}" for words in of_run]
    return said + _unlike(names, measured)


def _unlike(names: Sequence[str], measured: Sequence[Measured]) -> list[str]:
    """In what the measurements differ, so that their numbers do not compare."""
    said = []
    particles = [found.result["num_particles"] for found in measured]
    if len(set(particles)) > 1:
        entry = ", ".join(f"{name} {k:,}" for name, k in zip(names, particles, strict=True))
        said.append(f"The numbers of particles differ ({entry}): a bound with more of them is tighter.")
    given = [", ".join(found.result.get("given", [])) or "nothing" for found in measured]
    if len(set(given)) > 1:
        entry = "; ".join(f"{name}: {what}" for name, what in zip(names, given, strict=True))
        said.append(f"What the models are given differs ({entry}): these are log-likelihoods of different questions.")
    functions = [found.result.get("density_of") or "the data" for found in measured]
    if len(set(functions)) > 1:
        entry = "; ".join(f"{name}: {what}" for name, what in zip(names, functions, strict=True))
        said.append(f"What the bounds are of differs ({entry}): neither nats nor bits per dimension of these compare.")
    densities = [name for name, found in zip(names, measured, strict=True) if found.result.get("density")]
    others = [name for name, found in zip(names, measured, strict=True) if found.result.get("density") is False]
    if densities and others:
        said.append(
            f"Some bounds are of densities of the data ({', '.join(densities)}), others of probabilities of their "
            f"levels ({', '.join(others)}): neither nats nor bits per dimension of the two compare."
        )
    return said


def _command(
    pairs: Sequence[TrainedPair],
    out: str | Path,
    against: str | Path | None,
    split: str | None,
    particles: int | None,
    limit: int | None,
) -> str:
    options = {"against": against, "split": split, "particles": particles, "limit": limit}
    options |= {"out": None if Path(out) == Path() else out}
    trust = next((flag for trained in pairs if trained.run and (flag := trusted(trained.run))), [])
    return page_command("compare", [str(trained.path) for trained in pairs], options, trust)
