"""Figures from any pair of Pyro programs, drawn without pyplot's global state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pyro_vae.data import Data
from pyro_vae.errors import InputError
from pyro_vae.evaluation.figures.completions import completions
from pyro_vae.evaluation.figures.latent_scatter import latent_scatter
from pyro_vae.evaluation.figures.manifold import manifold, manifold_grid
from pyro_vae.evaluation.figures.pick import pick
from pyro_vae.evaluation.figures.prior_samples import prior_samples
from pyro_vae.evaluation.figures.progression import progression
from pyro_vae.evaluation.figures.reconstructions import reconstructions
from pyro_vae.evaluation.figures.training_curves import training_curves
from pyro_vae.files import write_atomically
from pyro_vae.program import as_programs, required_arguments

__all__ = [
    "completions",
    "draw_all",
    "latent_scatter",
    "manifold",
    "manifold_grid",
    "prior_samples",
    "progression",
    "reconstructions",
    "save_figure",
    "training_curves",
]

logger = logging.getLogger(__name__)
DPI = 120
NUM_PRIOR_SAMPLES = 64


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure to a file, whole or not at all; the suffix says the format.

    Raises:
        InputError: if the file cannot be written; an older one is left as it was.
    """
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=DPI))


def draw_all(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data,
    records: Sequence[Mapping[str, Any]],
    folder: str | Path,
    seed: int = 0,
) -> list[Path]:
    """Draw every figure that applies to the pair, as PNG files, each written whole or not at all.

    Data are shown from the test part, else from validation, else from training. The log says, in one line each,
    which figures do not apply and why.

    Args:
        model, guide: the programs.
        data: the dataset.
        records: the lines of ``metrics.jsonl``.
        folder: where to write; made if need be.
        seed: of all draws.

    Returns:
        the files written.

    Raises:
        InputError: if a file cannot be written.
    """
    model, guide = as_programs(model, guide)
    split = data.test or data.validation or data.train

    def from_the_prior() -> Figure | None:
        if not required_arguments(model):
            return prior_samples(model, NUM_PRIOR_SAMPLES, seed)
        batch = pick(split, NUM_PRIOR_SAMPLES, seed)
        context = {name: value for name, value in batch.items() if name in required_arguments(model)}
        return prior_samples(model, len(batch["x"]), seed, context)

    figures: dict[str, Callable[[], Figure | None]] = {
        "training_curves": lambda: training_curves(records),
        "reconstructions": lambda: reconstructions(model, guide, split, seed=seed),
        "prior_samples": from_the_prior,
        "latent_scatter": lambda: latent_scatter(model, guide, split, seed=seed),
        "manifold": lambda: manifold(model),
        "progression": lambda: progression(model, split, seed=seed),
        "completions": lambda: completions(model, split, seed=seed),
    }
    written = []
    for name, draw in figures.items():
        try:
            figure = draw()
        except InputError as error:
            logger.warning("no figure '%s': %s", name, error)
            continue
        if figure is not None:
            path = Path(folder) / f"{name}.png"
            save_figure(figure, path)
            written.append(path)
    return written
