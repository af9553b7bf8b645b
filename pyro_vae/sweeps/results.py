"""``sweep_results``: what a sweep has found, settings best first by validation, with the spread over seeds."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae.errors import InputError, why_not
from pyro_vae.evaluation.results import mean_and_error
from pyro_vae.evaluation.seeds import SeedComparison, compare_seeds
from pyro_vae.evaluation.student import holm
from pyro_vae.files import write_atomically, write_json
from pyro_vae.runs.measurements import plain
from pyro_vae.sweeps.figure import draw_settings
from pyro_vae.sweeps.plan import read_plan
from pyro_vae.sweeps.stages import arrays_of, check_alike, check_member, is_done

logger = logging.getLogger(__name__)

RESULTS, SETTINGS, RUNS, FIGURE = "results.json", "settings.csv", "runs.csv", "settings.png"


@dataclass(frozen=True)
class Measured:
    """A setting on a part of the data, nats per datum.

    Attributes:
        mean: over data and seeds.
        seed_deviation: standard deviation over seeds of the trainings' means; nan of one.
        seed_error: that over the square root of their number: how well the mean over seeds is known, on these data.
        data_error: of the mean over data, of these trainings.
    """

    mean: float
    seed_deviation: float
    seed_error: float
    data_error: float


@dataclass(frozen=True)
class SettingResult:
    """What is known of a setting.

    Attributes:
        name: what it is called.
        values: of options.
        seeds: of the runs that are done.
        missing: how many runs are not: failed, or not come to their end.
        measured: by part of the data; empty if no run is done.
        difference: from the best setting, on the test data; None of that one, and where there is nothing to compare.
        p_adjusted: of its difference, over new trainings and new data, adjusted for all that are compared (Holm).
    """

    name: str
    values: dict[str, str]
    seeds: list[int]
    missing: int
    measured: dict[str, Measured]
    difference: SeedComparison | None = None
    p_adjusted: float = math.nan


@dataclass(frozen=True)
class SweepResult:
    """What a sweep has found.

    Attributes:
        settings: best first by the validation data; those that lack runs after the others.
        runs: a row each: name, seed, values, means by part of the data.
        warnings: what speaks against these numbers.
    """

    settings: list[SettingResult]
    runs: list[dict[str, Any]]
    warnings: list[str]

    @property
    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and rows, for people."""
        parts = list(dict.fromkeys(part for each in self.settings for part in each.measured))
        heads = ["setting", "seeds"]
        for part in parts:
            heads += [part, "± seeds", "± data"]
        compared = any(each.difference for each in self.settings)
        heads += ["test, less the best", "± both", "p"] if compared else []
        rows = []
        for each in self.settings:
            row = [each.name, f"{len(each.seeds)}" + (f" of {len(each.seeds) + each.missing}" if each.missing else "")]
            for part in parts:
                found = each.measured.get(part)
                numbers = (found.mean, found.seed_error, found.data_error) if found else (math.nan,) * 3
                row += [_number(number) for number in numbers]
            if compared:
                of = each.difference
                p_value = "" if of is None or math.isnan(each.p_adjusted) else f"{each.p_adjusted:.2g}"
                row += ["", "", ""] if of is None else [f"{of.mean:+.3f}", _number(of.both.standard_error), p_value]
            rows.append(row)
        return heads, rows

    def __str__(self) -> str:
        """The table as text."""
        heads, rows = self.table
        widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
        lines = [
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in [heads, *rows]
        ]
        return "\n".join([line.rstrip() for line in lines] + [f"warning: {words}" for words in self.warnings])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        settings = []
        for place, each in enumerate(self.settings):
            of = None if each.difference is None else each.difference.to_dict()
            measured = {part: asdict(found) for part, found in each.measured.items()}
            entry = {"place": place + 1, "name": each.name, "values": each.values, "seeds": each.seeds}
            entry |= {"missing": each.missing, "measured": measured, "difference_from_best": of}
            settings.append(entry | {"p_adjusted": each.p_adjusted})
        found: dict[str, Any] = plain({"settings": settings, "runs": self.runs, "warnings": self.warnings})
        return found

    def write(self, folder: str | Path, failed: Mapping[str, str] | None = None) -> list[Path]:
        """Write ``results.json``, ``settings.csv`` (the table), ``runs.csv`` and the figure ``settings.png``.

        Args:
            folder: the sweep's directory.
            failed: errors of runs, by their names.

        Returns:
            the files.
        """
        folder = Path(folder)
        write_json(folder / RESULTS, self.to_dict() | {"failed": dict(failed or {})})
        written = [folder / RESULTS]
        if self.settings:
            heads = ["setting", *self.settings[0].values, "seeds", "missing"]
            rows = [[each.name, *each.values.values(), len(each.seeds), each.missing] for each in self.settings]
            for part in dict.fromkeys(part for each in self.settings for part in each.measured):
                heads += [f"{part}_{name}" for name in Measured.__dataclass_fields__]
                for row, each in zip(rows, self.settings, strict=True):
                    found = each.measured.get(part)
                    row += list(vars(found).values()) if found else [""] * len(Measured.__dataclass_fields__)
            written.append(_write_csv(folder / SETTINGS, heads, rows))
        if self.runs:
            heads = list(self.runs[0])
            written.append(_write_csv(folder / RUNS, heads, [[run[head] for head in heads] for run in self.runs]))
            figure = draw_settings(self)
            write_atomically(folder / FIGURE, lambda path: figure.savefig(path, dpi=150, format="png"))
            written.append(folder / FIGURE)
        return written


def sweep_results(folder: str | Path) -> SweepResult:
    """What a sweep has found so far, of the runs that are done.

    Settings are ranked by the mean log-likelihood of the validation data over seeds; nothing is chosen by test data,
    whose figures stand beside. Each setting is compared with the first on the test data, as
    :func:`~pyro_vae.evaluation.compare_seeds` does, paired by seed.

    Args:
        folder: the sweep's directory.

    Raises:
        InputError: if it is none, or a run is not the one that its name says.
        CorruptFileError: if a file is damaged.
    """
    folder = Path(folder)
    plan = read_plan(folder)
    done = [run for run in plan.runs() if is_done(folder / run.name, plan)]
    for run in done:
        check_member(folder, plan, run)
    check_alike(folder, plan, done)
    numbers: dict[tuple[int, str], dict[int, np.ndarray]] = {}
    digests: dict[str, set[Any]] = {split: set() for split in plan.splits}
    rows, warnings = [], []
    for run in done:
        row = {"run": run.name, "setting": plan.names()[run.setting], "seed": run.seed, **plan.settings[run.setting]}
        for split in plan.splits:
            summary, values = arrays_of(folder, run, split)
            numbers.setdefault((run.setting, split), {})[run.seed] = values
            digests[split].add((summary.get("data_digest"), summary.get("num_data"), str(summary.get("given"))))
            mean, error = mean_and_error(torch.as_tensor(values))
            row |= {split: mean, f"{split}_standard_error": error, f"{split}_k_hat": summary.get("pareto_k_max")}
            row[f"{split}_k_hat_above"] = summary.get("pareto_k_above")
        rows.append(row)
    one_data = all(len(found) <= 1 for found in digests.values())
    if not one_data:
        warnings.append(
            "the runs were measured on different data, or given different things: their numbers do not compare, and "
            "the order of the settings says nothing"
        )
    settings = []
    for i, values in enumerate(plan.settings):
        seeds = [seed for seed in plan.seeds if seed in numbers.get((i, plan.splits[0]), {})]
        measured = {split: _measured([numbers[i, split][seed] for seed in seeds]) for split in plan.splits if seeds}
        settings.append(SettingResult(plan.names()[i], dict(values), seeds, len(plan.seeds) - len(seeds), measured))
    chosen_by = plan.splits[0]  # validation, where there is one
    order = sorted(range(len(settings)), key=lambda i: _rank(settings[i], chosen_by))
    found = _compared(settings, order, numbers, "test") if one_data else [settings[i] for i in order]
    if found and 0 < len(found[0].seeds) < 2 and len(plan.seeds) < 2:
        warnings.append("one seed a setting: how much another seed would differ is not known (--seeds 5)")
    above = [row["run"] for row in rows if any((row.get(f"{split}_k_hat_above") or 0) > 0.05 for split in plan.splits)]
    if above:
        warnings.append(
            f"the weights of over 5% of the data have a Pareto k-hat above 0.7 in {len(above)} of {len(rows)} runs: "
            "these bounds may lie far below log p(x), and not equally far (docs/likelihoods.md)"
        )
    return SweepResult(found, rows, warnings)


def _measured(values: Sequence[np.ndarray]) -> Measured:
    every = torch.as_tensor(np.stack(values))
    _, data_error = mean_and_error(every.mean(0))
    mean, seed_error = mean_and_error(every.mean(1))
    return Measured(mean, seed_error * math.sqrt(len(values)), seed_error, data_error)


def _rank(setting: SettingResult, split: str) -> tuple[bool, bool, float]:
    """Whole settings first, best first; what is not finite, and what has no runs, last."""
    mean = setting.measured[split].mean if setting.measured else -math.inf
    return not setting.measured or not math.isfinite(mean), setting.missing > 0, -mean if mean == mean else math.inf


def _compared(
    settings: Sequence[SettingResult],
    order: Sequence[int],
    numbers: Mapping[tuple[int, str], Mapping[int, np.ndarray]],
    split: str,
) -> list[SettingResult]:
    """In their order, each with its difference from the first, seed by seed of those that both have."""
    best = order[0] if order else 0
    differences: dict[int, SeedComparison] = {}
    for i in order[1:]:
        ours, theirs = numbers.get((i, split), {}), numbers.get((best, split), {})
        both = [seed for seed in settings[best].seeds if seed in ours and seed in theirs]
        if both:
            try:
                pair = (torch.as_tensor(np.stack([of[seed] for seed in both])) for of in (ours, theirs))
                differences[i] = compare_seeds(*pair, paired=True)
            except InputError as error:  # infinite ones
                logger.warning("%s: %s", settings[i].name, why_not(error))
    p_values = dict(zip(differences, holm([each.both.p_value for each in differences.values()]), strict=True))
    return [replace(settings[i], difference=differences.get(i), p_adjusted=p_values.get(i, math.nan)) for i in order]


def finished_runs(folder: Path) -> list[Path]:
    """The directories of a sweep's runs that are done.

    Raises:
        InputError: if none is.
    """
    plan = read_plan(folder)
    found = [folder / run.name for run in plan.runs() if is_done(folder / run.name, plan)]
    if not found:
        raise InputError(f"{folder}: no run of this sweep is done yet; go on with: pyro-vae resume {folder}")
    return found


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _write_csv(path: Path, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    def write(file: Path) -> None:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(heads)
            writer.writerows([["" if cell != cell else cell for cell in row] for row in rows])

    write_atomically(path, write)
    return path
