"""Which attributes lie in the same direction of latent space."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure

from pyro_vae.data import Split
from pyro_vae.evaluation import attributes
from pyro_vae.evaluation.figures.attribute_arithmetic import vectors_of

logger = logging.getLogger(__name__)
MAX_NUMBERS = 12  # attributes up to which the numbers are written


def attribute_correlation(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    labels: str = "y",
    max_data: int = 5000,
    seed: int = 0,
) -> Figure | None:
    """A heat map of the correlation of attribute vectors over the units of all real-valued latent sites.

    Args:
        model, guide: the programs.
        split: labelled data, of which ``max_data`` at even distances are used.
        labels: name of the labels in the split: integer classes ``(n,)`` or 0s and 1s ``(n, attributes)``.
        max_data: at most so many.
        seed: of draws.

    Returns:
        the figure, or None (and a line in the log) for data without such labels, latents that are not real, or
        fewer than 3 units.

    Raises:
        InputError: for an attribute that all data have, or none.

    Source: Hou et al. 2016, arXiv:1610.00291.
    """
    found = vectors_of(model, guide, split, labels, max_data, seed)
    if found is None:
        return None
    vectors = torch.cat([v.flatten(1) if v.dim() > 1 else v[:, None] for _, v in found.values()], 1)
    if vectors.shape[1] < 3:
        logger.info("no figure of attributes' correlation: %d latent units are fewer than 3", vectors.shape[1])
        return None
    matrix = attributes.attribute_correlation(vectors)
    names = [str(name) for name in next(iter(found.values())).names]
    side = min(12.0, max(4.0, 0.45 * len(names)))
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    if len(names) <= MAX_NUMBERS:
        for i, row in enumerate(matrix.tolist()):
            for j, value in enumerate(row):
                colour = "white" if abs(value) > 0.6 else "black"
                text = f"{round(value, 1) + 0.0:.1f}"  # + 0.0: no -0.0
                axes.text(j, i, text, ha="center", va="center", fontsize="x-small", color=colour)
    sites = ", ".join(found) if len(found) <= 4 else f"{len(found)} latent sites"
    axes.set(xlabel=f"attribute ({labels})", ylabel=f"attribute ({labels})")
    axes.set_title(f"{split.name}: correlation of attribute\nvectors over the {vectors.shape[1]} units of {sites}")
    figure.colorbar(image, ax=axes, label="correlation", shrink=0.8)
    return figure
