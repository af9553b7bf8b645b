"""The data whose importance-weighted bounds are least to be trusted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation.figures.grid import grid, is_drawable
from pyro_vae.evaluation.figures.images import grey_range, in_shape
from pyro_vae.evaluation.figures.pick import picked
from pyro_vae.evaluation.generate import reconstruct
from pyro_vae.evaluation.log_likelihood import log_likelihood
from pyro_vae.evaluation.results import LogLikelihood
from pyro_vae.evaluation.session import anything_to_draw, evaluating

logger = logging.getLogger(__name__)
NUM_MEASURED, NUM_PARTICLES = 100, 200  # where nothing was measured before


def worst_data(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    measured: LogLikelihood | None = None,
    n: int = 8,
    seed: int = 0,
) -> Figure | None:
    """Two rows: the data with the largest k-hat, and below each the mean of p(x | z) for one z ~ q(z | x).

    Above each column: k-hat (:mod:`pyro_vae.evaluation.pareto`), the effective sample size and the bound on log p(x).

    Args:
        model, guide: the programs.
        split: the data.
        measured: what :func:`~pyro_vae.evaluation.log_likelihood` said of this split; if None, 100 data at even
            distances are measured with 200 particles each.
        n: columns.
        seed: of the draws.

    Returns:
        the figure, or None (and a line in the log) if the data are neither images nor vectors, or no datum has a k-hat.

    Raises:
        InputError: if ``measured`` is of another number of data.
    """
    if not is_drawable(split.shape):
        logger.info("no figure of the worst data: data of shape %s are neither images nor vectors", split.shape)
        return None
    if measured is None:
        split = picked(split, NUM_MEASURED, seed)
        measured = _measured(model, guide, split, seed)
    elif len(measured.per_datum) != len(split):
        raise InputError(f"measured has {len(measured.per_datum)} data, but the split has {len(split)}")
    if measured is None or measured.pareto_k.isnan().all():
        logger.info("no figure of the worst data: no datum has a Pareto k-hat (few particles, or equal weights)")
        return None
    worst = measured.pareto_k.nan_to_num(nan=-torch.inf).argsort(descending=True)
    worst = worst[: min(n, int((~measured.pareto_k.isnan()).sum()))]
    batch = split.fixed(worst.to(split.device)).batch(slice(None))
    mean = in_shape(reconstruct(model, guide, batch, seed=seed), split.shape)
    values = torch.stack([batch["x"].cpu(), mean])  # (2, columns, *shape)
    size, k = measured.effective_sample_size, measured.pareto_k
    columns = [f"k {k[i]:.2f}\nESS {size[i]:.0f}\n{measured.per_datum[i]:.1f}" for i in worst.tolist()]
    title = (
        f"{split.name}: the worst of {len(split)} data by Pareto k-hat (k), with the effective\n"
        f"sample size of {measured.num_particles} particles and the bound on log p(x) in nats"
    )
    return grid(values, title, rows=["data", "reconstruction"], columns=columns, limits=grey_range(batch["x"]))


def _measured(model: Callable[..., Any], guide: Callable[..., Any], split: Split, seed: int) -> LogLikelihood | None:
    """Bounds from few particles; None where all particles would be the same."""
    with evaluating(model, guide, split, seed) as programs:
        if not anything_to_draw(*programs):
            return None
    return log_likelihood(model, guide, split, num_particles=NUM_PARTICLES, vectorize=False, seed=seed, compile="off")
