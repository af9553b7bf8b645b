"""Measurements of several runs on the very same data, datum by datum."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pyro_vae.data import Split
from pyro_vae.data.digest import split_digest
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.evaluation.results import mean_and_error
from pyro_vae.recipes.measure import PARTICLES, Measured, measure, part_of, weights_digest
from pyro_vae.recipes.measurement_files import read_together
from pyro_vae.recipes.pages.stored import stored_evaluations
from pyro_vae.recipes.pages.subject import Subject

logger = logging.getLogger(__name__)
NEEDED = ("log_likelihood", "elbo")


def measured_alike(
    subjects: Sequence[Subject],
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
        options: as for :func:`~pyro_vae.recipes.measure.measure`.

    Returns:
        the measurements, and whether they are the stored ones.

    Raises:
        InputError: if the runs' data differ, or every pass over them draws others; if a stored measurement's two files
            do not belong together, or one is missing.
        CorruptFileError: if one is damaged.
    """
    parts = [part_of(subject.data, split, limit) for subject in subjects]
    _check_same(subjects, parts, split)
    why = "--particles or --limit asks for it" if (particles, limit) != (None, None) else None
    stored = [] if why else [_stored(subject, split) for subject in subjects]
    for subject, found in zip(subjects, stored, strict=False):
        if why is None and isinstance(found, str):
            why = f"{subject.path}: {found}"
    there = [found for found in stored if isinstance(found, Measured)]
    if why is None and len({found.result["data_digest"] for found in there}) > 1:
        why = "the stored measurements are of different data, or of different numbers of them"
    if why is None:
        return there, True
    k = PARTICLES if particles is None else particles
    logger.info("measuring all runs with K = %d on %d data (%s)", k, len(parts[0]), why)
    measured = []
    for subject in subjects:
        logger.info("%s", subject.path)
        programs = subject.model, subject.guide, subject.data
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
    differences = torch.from_numpy(np.asarray(ours) - np.asarray(theirs))
    mean, error = mean_and_error(differences)
    return {"mean": mean, "standard_error": error, "better": (differences > 0).double().mean().item()}


def _stored(subject: Subject, split: str) -> Measured | str:
    """The measurement in a run's directory, or why it cannot serve."""
    again = f"pyro-vae evaluate {subject.path} --split {split}"
    found = read_together(subject.path, f"evaluation-{split}", again)
    if found is None:
        return f"it has no numbers of each datum of {split}"
    result, arrays = stored_evaluations(subject.path)[split], found[1]
    lengths = {len(arrays[name]) if name in arrays else None for name in NEEDED}
    if "data_digest" not in result or lengths != {result["num_data"]}:
        raise CorruptFileError(f"{subject.path}: evaluation-{split} is not whole. Measure again: {again}")
    if result.get("weights_digest") not in (None, weights_digest(subject.model, subject.guide)):
        return "it was measured with other weights than it has now"
    return Measured(result, arrays)


def _check_same(subjects: Sequence[Subject], parts: Sequence[Split], split: str) -> None:
    """Every run's data must be the first one's."""
    if parts[0].binarization == "dynamic":
        raise InputError(
            f"the {split} data of {subjects[0].path} are binarized anew at every pass, so that no two measurements see "
            "the same data: compare on validation or test"
        )
    first = split_digest(parts[0])
    for subject, part in zip(subjects[1:], parts[1:], strict=True):
        if split_digest(part) != first:
            said = _difference(subjects[0], subject, parts[0], part)
            raise InputError(
                f"{subjects[0].path} and {subject.path} cannot be compared datum by datum: their {split} data differ "
                f"{said}"
            )


def _difference(a: Subject, b: Subject, part_a: Split, part_b: Split) -> str:
    """In what the data of two runs differ, for people."""
    if part_a.shape != part_b.shape:
        return f"in shape, {part_a.shape} and {part_b.shape}"
    ours, theirs = (_data_options(subject.config) for subject in (a, b))
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
