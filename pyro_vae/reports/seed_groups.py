"""Runs of a comparison that differ in their seeds alone, and what is known of one such group against another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pyro_vae.evaluation.results import mean_and_error
from pyro_vae.evaluation.seeds import SeedComparison, compare_seeds
from pyro_vae.evaluation.student import holm
from pyro_vae.files import read_yaml
from pyro_vae.reports import html
from pyro_vae.reports.stored import TrainedPair
from pyro_vae.runs.directory import CONFIG
from pyro_vae.runs.fixed_model import MODEL_OF
from pyro_vae.runs.learned_priors import PRIORS
from pyro_vae.runs.run import HEAD
from pyro_vae.runs.sections import HARMLESS, flattened

TOLD_ELSEWHERE = ({*HARMLESS} - {"fit.epochs"}) | {"seed", "version", "recipe"}
UNKNOWN = (
    "There is one training of a kind: how much another seed would differ is not known. The errors over data say "
    "which of these trained pairs is better, not which way of training."
)
Numbers = Mapping[str, np.ndarray]


def seed_groups(
    pairs: Sequence[TrainedPair], names: Sequence[str], measured: Sequence[Numbers], base: int
) -> dict[str, Any]:
    """The runs by way of training, and each group against that of one run.

    Args:
        pairs: the runs.
        names: what they are called.
        measured: their numbers of each datum.
        base: the run whose group the others are compared with.

    Returns:
        ``groups``: of each its runs, seeds, and log-likelihood with its errors; ``against``; ``comparisons``, where
        there are several groups (:func:`~pyro_vae.evaluation.compare_seeds`); a ``note`` if seeds are not known of any.
    """
    by_way: dict[str, list[int]] = {}
    for i, trained in enumerate(pairs):
        by_way.setdefault(_way(trained, names[i]), []).append(i)
    groups = list(by_way.values())
    short = [_called([names[i] for i in group]) for group in groups]
    whole = [names[group[0]] for group in groups]
    called = {id(g): name for g, name in zip(groups, short if len({*short}) == len(short) else whole, strict=True)}
    found = [{"name": called[id(group)], **_group(group, pairs, names, measured)} for group in groups]
    theirs = next(group for group in groups if base in group)
    compared: dict[str, tuple[SeedComparison, list[Any]]] = {}
    for group in groups:
        if group is not theirs and all(np.isfinite(_values(measured, group + theirs)).ravel()):
            compared[called[id(group)]] = _compare(group, theirs, pairs, measured)
    adjusted = holm([each.both.p_value for each, _ in compared.values()])
    comparisons = [
        {"name": name, **each.to_dict(), "paired_seeds": seeds, "p_adjusted": p}
        for (name, (each, seeds)), p in zip(compared.items(), adjusted, strict=True)
    ]
    known = any(len(group) > 1 for group in groups)
    result: dict[str, Any] = {"groups": found, "against": called[id(theirs)], "comparisons": comparisons}
    return result if known else {**result, "note": UNKNOWN}


def seeds_section(seeds: Mapping[str, Any]) -> str:
    """What is known over seeds, as a part of a page."""
    if "note" in seeds:
        return html.text(seeds["note"])
    groups = [
        [g["name"], len(g["runs"]), html.with_error(g["mean"], g["seed_error"]), g["seed_deviation"], g["data_error"]]
        for g in seeds["groups"]
    ]
    heads = ["way of training", "runs", "log-likelihood ± over seeds", "deviation of a run", "error over data"]
    notes = (
        "Runs that differ in their seeds alone are one way of training. Over seeds: the standard deviation of the "
        "runs' means by the square root of their number."
    )
    text = html.table(heads, groups) + html.note(notes)
    rows = []
    for one in seeds["comparisons"]:
        cells = [
            html.with_error(one["mean"], one[question]["standard_error"]) for question in ("data", "seeds", "both")
        ]
        how = f"by seed, {len(one['paired_seeds'])}" if one["paired"] else "apart (Welch)"
        rows.append(
            [one["name"], *cells, one["both"]["freedom"], _p(one["both"]["p_value"]), _p(one["p_adjusted"]), how]
        )
    if rows:
        heads = ["less " + seeds["against"], "± new data", "± new trainings", "± both", "df", "p", "adjusted", "seeds"]
        text += html.table(heads, rows, (0, 7)) + html.note(
            "New data: how well the difference between these very trainings is known. New trainings: between two ways "
            "of training, on these data. Both: between two ways of training, on new data; p is of this one, by "
            "Student's t, and adjusted for the number of comparisons by Holm's way. A dash: one training is not enough."
        )
    return text


def in_words(seeds: Mapping[str, Any]) -> list[str]:
    """A line for each comparison of two ways of training."""
    if "note" in seeds:
        return []
    lines = []
    for one in seeds["comparisons"]:
        error, p = one["both"]["standard_error"], one["both"]["p_value"]
        known = error is not None and error == error
        said = (
            f"+- {error:.3f} nats over trainings and data (p = {p:.2g})" if known else "nats; its seeds are not known"
        )
        lines.append(f"{one['name']} less {seeds['against']}: {one['mean']:.3f} {said}")
    return lines


def _p(value: float | None) -> str | None:
    return None if value is None or value != value else f"{value:.2g}"


def _way(trained: TrainedPair, name: str) -> str:
    """How a run was trained, but for its seed: two of one way have the same text."""
    if not trained.config:
        return f"from Python: {name}"
    parts = [trained.config, *(read_yaml(file) for file in sorted((trained.path / PRIORS).glob(f"*/{CONFIG}")))]
    flat = [flattened({k: v for k, v in part.items() if k not in HEAD or k == MODEL_OF}) for part in parts]
    kept = [{k: v for k, v in each.items() if k.removeprefix("first.") not in TOLD_ELSEWHERE} for each in flat]
    return json.dumps(kept, sort_keys=True, default=str)


def _called(names: Sequence[str]) -> str:
    """What a group is called: what its runs' names have in common, or its first and their number."""
    if len(names) == 1:
        return names[0]
    common = {name.rpartition(",seed=")[0] for name in names}
    return common.pop() if len(common) == 1 and "" not in common else f"{names[0]} and {len(names) - 1} more"


def _values(measured: Sequence[Numbers], group: Sequence[int]) -> np.ndarray:
    return np.stack([measured[i]["log_likelihood"] for i in group])


def _seed(trained: TrainedPair) -> int:
    return int(trained.config.get("seed", 0))


def _group(
    group: Sequence[int], pairs: Sequence[TrainedPair], names: Sequence[str], measured: Sequence[Numbers]
) -> dict[str, Any]:
    values = torch.as_tensor(_values(measured, group))
    mean, error = mean_and_error(values.mean(1))
    return {
        "runs": [names[i] for i in group],
        "seeds": [_seed(pairs[i]) if pairs[i].config else None for i in group],
        "mean": mean,
        "seed_deviation": error * len(group) ** 0.5,
        "seed_error": error,
        "data_error": mean_and_error(values.mean(0))[1],
    }


def _compare(
    ours: Sequence[int], theirs: Sequence[int], pairs: Sequence[TrainedPair], measured: Sequence[Numbers]
) -> tuple[SeedComparison, list[int]]:
    """By seed, if both were trained with the very same ones, once each; else apart."""
    by_seed = [{_seed(pairs[i]): i for i in group} for group in (ours, theirs)]
    same = by_seed[0].keys() == by_seed[1].keys() and len(by_seed[0]) == len(ours) == len(theirs)
    if same:
        seeds = sorted(by_seed[0])
        orders: list[list[int]] = [[each[seed] for seed in seeds] for each in by_seed]
    else:
        seeds, orders = [], [list(ours), list(theirs)]
    tensors = [torch.as_tensor(_values(measured, order)) for order in orders]
    return compare_seeds(*tensors, paired=same), seeds
