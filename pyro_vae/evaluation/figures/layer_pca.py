"""What each layer of latents tells apart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from pyro_vae.data import Split
from pyro_vae.evaluation.figures.clouds import clouds
from pyro_vae.evaluation.figures.labels import class_labels
from pyro_vae.evaluation.figures.panels import from_the_top
from pyro_vae.evaluation.figures.pick import pick
from pyro_vae.evaluation.latents import NO_FREE_SITE, free_sites, posterior_samples

logger = logging.getLogger(__name__)


def layer_pca(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, max_points: int = 2000, seed: int = 0
) -> Figure | None:
    """A panel per latent site, the top one first: a draw z ~ q(z | x) of each datum in the sites' principal planes.

    A site that the model does not use shows a round cloud of mixed colours. Units are flattened; two-dimensional
    latents are drawn as they are, one-dimensional ones as a histogram. Codes, whose numbers are names, and functions of
    other latents have no panel.

    Args:
        model, guide: the programs.
        split: the data, of which ``max_points`` at even distances are drawn, coloured by an integer label ``y``.
        max_points: at most so many.
        seed: of the draws.

    Returns:
        the figure, or None (and a line in the log) if there are too few data, or no such latents.

    Source: Sønderby et al. 2016, arXiv:1602.02282 (principal components of the samples of each layer).
    """
    batch = pick(split, max_points, seed)
    names = free_sites(model, guide, split, counted=True)
    if len(batch["x"]) < 3 or not names:
        reason = NO_FREE_SITE if not names else f"{len(batch['x'])} data are too few"
        logger.info("no figure of the layers: %s", reason)
        return None
    sites = posterior_samples(model, guide, batch, seed=seed, sites=names)
    ordered = {name: sites[name] for name in from_the_top(sites)}
    return clouds(ordered, class_labels(batch), f"{split.name}: posterior samples of {len(batch['x'])} data")
