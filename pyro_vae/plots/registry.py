"""Figures from any pair of Pyro programs, drawn without pyplot's global state."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Data, Sound, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation.codes import code_statistics
from pyro_vae.evaluation.latent_units import latent_statistics
from pyro_vae.files import write_atomically
from pyro_vae.plots.attributes import attribute_arithmetic, attribute_correlation
from pyro_vae.plots.codes import code_maps, codebook_usage
from pyro_vae.plots.completion import completions
from pyro_vae.plots.completion_steps import progression
from pyro_vae.plots.hierarchy import levels
from pyro_vae.plots.images import pick, picked
from pyro_vae.plots.interpolation import interpolations
from pyro_vae.plots.kl import kl_heatmap, kl_per_unit
from pyro_vae.plots.latent_clouds import latent_scatter, layer_pca
from pyro_vae.plots.latent_manifold import manifold
from pyro_vae.plots.likelihood import worst_data
from pyro_vae.plots.posterior import aggregated_posterior
from pyro_vae.plots.prior import prior_samples, scaled_samples, uniform_and_learned
from pyro_vae.plots.reconstruction import reconstructions
from pyro_vae.plots.spectrogram import spectrograms
from pyro_vae.plots.training import training_curves
from pyro_vae.plots.traversal import traversals
from pyro_vae.programs.context import X, needed_to_generate
from pyro_vae.programs.program import as_programs

logger = logging.getLogger(__name__)

DPI = 120
NUM_PRIOR_SAMPLES, NUM_SCALED_SAMPLES = 64, 10
NUM_STATISTICS = 1000  # data of which the KL per unit is the mean
NUM_ENCODED = 5000  # data whose codes are counted


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

    Data are shown from the test part, else from validation, else from training; sound also as spectrograms. The log
    says, in one line each, which figures do not apply, or failed, and why; the others are drawn all the same.

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
    split = data.test or data.validation or data.train
    if data.test is None and data.validation is None:
        logger.info("figures show training data: %s has no others", data.name)
    figures = drawers(model, guide, split, records, data.sound, seed)
    written = []
    for name, draw in figures.items():
        path, drawn = Path(folder) / f"{name}.png", False
        try:
            figure = draw()
            drawn = figure is not None
            if figure is not None:
                save_figure(figure, path)
                written.append(path)
        except Exception as error:  # one figure's failure is not to take the others with it
            if drawn and isinstance(error.__cause__, OSError):
                raise  # the disk's, which would take the others as well
            logger.warning("no figure '%s': %s", name, why_not(error))
    return written


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """A figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def why_not(error: Exception) -> str:
    """What an error says in one line, with its type where it is not the package's own; its traceback is logged."""
    if isinstance(error, InputError):
        return str(error)
    logger.debug("where it failed", exc_info=error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def drawers(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    records: Sequence[Mapping[str, Any]],
    sound: Sound | None = None,
    seed: int = 0,
) -> dict[str, Callable[[], Figure | None]]:
    """Every figure of a pair by name, as a function that draws it, or returns None and says in the log why not.

    Args:
        model, guide: the programs.
        split: the data that are shown.
        records: the lines of ``metrics.jsonl``.
        sound: how the data are played, if they are sound; they are then shown as spectrograms, too.
        seed: of all draws.
    """
    model, guide = as_programs(model, guide)

    def context(n: int) -> tuple[int, dict[str, Tensor]]:
        """The context that the model needs, and rows of data for their shape; how many samples there can be of it."""
        some = pick(split, n, seed)
        needed = needed_to_generate(model, some)
        batch = {name: value for name, value in some.items() if name in (X, *needed)}
        return (len(some[X]) if len(batch) > 1 else n), batch

    def from_the_prior() -> Figure | None:
        n, batch = context(NUM_PRIOR_SAMPLES)
        return prior_samples(model, n, seed, batch)

    def from_scaled_priors() -> Figure | None:
        n, batch = context(NUM_SCALED_SAMPLES)
        return scaled_samples(model, n=n, seed=seed, batch=batch)

    def of_units() -> Figure | None:
        some = picked(split, NUM_STATISTICS, seed)
        return kl_per_unit(latent_statistics(model, guide, some, vectorize=False, seed=seed))

    def of_codes() -> Figure | None:
        some = picked(split, NUM_ENCODED, seed)
        return codebook_usage(code_statistics(model, guide, some, seed=seed))

    def under_both_priors() -> Figure | None:
        batch = {name: v for name, v in context(NUM_PRIOR_SAMPLES)[1].items() if name not in ("y", X)}
        return uniform_and_learned(model, seed, batch)

    figures: dict[str, Callable[[], Figure | None]] = {
        "training_curves": lambda: training_curves(records),
        "kl_heatmap": lambda: kl_heatmap(records),
        "kl_per_unit": of_units,
        "reconstructions": lambda: reconstructions(model, guide, split, seed=seed),
        "worst_data": lambda: worst_data(model, guide, split, seed=seed),
        "levels": lambda: levels(model, guide, split, seed=seed),
        "code_maps": lambda: code_maps(model, guide, split, seed=seed),
        "codebook_usage": of_codes,
        "prior_samples": from_the_prior,
        "uniform_and_learned": under_both_priors,
        "scaled_samples": from_scaled_priors,
        "interpolations": lambda: interpolations(model, guide, split, seed=seed),
        "traversals": lambda: traversals(model, guide, split, seed=seed),
        "latent_scatter": lambda: latent_scatter(model, guide, split, seed=seed),
        "layer_pca": lambda: layer_pca(model, guide, split, seed=seed),
        "aggregated_posterior": lambda: aggregated_posterior(model, guide, split, seed=seed),
        "attribute_arithmetic": lambda: attribute_arithmetic(model, guide, split, seed=seed),
        "attribute_correlation": lambda: attribute_correlation(model, guide, split, seed=seed),
        "manifold": lambda: manifold(model, batch=context(NUM_SCALED_SAMPLES)[1]),
        "progression": lambda: progression(model, split, seed=seed),
        "completions": lambda: completions(model, split, seed=seed),
    }
    if sound is not None:
        figures["spectrograms"] = lambda: spectrograms(model, guide, split, sound, seed=seed)
    return figures
