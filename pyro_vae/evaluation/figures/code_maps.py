"""Data beside the codes that they are told in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.evaluation.codes import CodeSite, sites_of_codes
from pyro_vae.evaluation.figures.curves import draw_curve
from pyro_vae.evaluation.figures.grid import is_drawable
from pyro_vae.evaluation.figures.images import grey_range, is_image, mosaic
from pyro_vae.evaluation.figures.palette import code_colours
from pyro_vae.evaluation.figures.pick import pick
from pyro_vae.evaluation.latents import posterior_samples

logger = logging.getLogger(__name__)
STRIP = 0.28  # height of a sequence of codes, of a datum's width


def code_maps(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, n: int = 10, seed: int = 0
) -> Figure | None:
    """Rows: data, and for each code site the guide's codes, a colour for each code; a column for each datum.

    A grid of codes is a picture, a sequence a strip, both as wide as the datum. The colours of different sites have
    nothing to do with one another, nor have similar colours with similar codes.

    Args:
        model, guide: the programs.
        split: the data, of which n at even distances are drawn.
        n: columns.
        seed: of the draws of a guide that has any.

    Returns:
        the figure, or None (and a line in the log) if there are no codes on a grid or in a sequence, or the data are
        neither images nor signals.
    """
    every = sites_of_codes(model, guide, split)
    sites = {name: site for name, site in every.items() if len(site.shape) <= 2}
    if not sites or not is_drawable(split.shape):
        reason = f"data of shape {split.shape} are neither images nor signals"
        if not sites:
            reason = f"those of {', '.join(every)} are on no grid" if every else "the model has none"
        logger.info("no figure of codes: %s", reason)
        return None
    batch = pick(split, n, seed)
    x = batch["x"].cpu()
    codes = posterior_samples(model, guide, batch, seed=seed, sites=list(sites))
    return _draw(x, codes, sites, f"{split.name}: the data's codes, a colour for each")


def _draw(x: Tensor, codes: dict[str, Tensor], sites: dict[str, CodeSite], title: str) -> Figure:
    n, image = len(x), is_image(tuple(x.shape[1:]))
    side = 0.95 if image else 1.5  # inches a datum is wide
    heights = [side * x.shape[-2] / x.shape[-1] if image else 0.8]
    heights += [side * (site.shape[0] / site.shape[1] if len(site.shape) == 2 else STRIP) for site in sites.values()]
    size = (max(6.0, side * n + 1.6), sum(heights) + 0.15 * len(heights) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    places = figure.subplots(len(heights), n, squeeze=False, height_ratios=heights)
    for axes in places.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    for i, axes in enumerate(places[0]):
        if image:
            axes.imshow(mosaic(x[i : i + 1], columns=1, limits=grey_range(x)))
        else:
            draw_curve(axes, x[i], linewidth=0.8)
            axes.margins(x=0)
            axes.sharey(places[0, 0])
    _label(places[0, 0], "data")
    for row, (name, site) in zip(places[1:], sites.items(), strict=True):
        colours = torch.from_numpy(code_colours(site.num_codes))
        for i, axes in enumerate(row):
            grid = codes[name][i].reshape((1,) * (2 - len(site.shape)) + site.shape).long()  # (height, width)
            aspect = "equal" if len(site.shape) == 2 else "auto"
            axes.imshow(colours[grid].numpy(), interpolation="nearest", aspect=aspect)
        shape = " x ".join(map(str, site.shape)) or "1"
        _label(row[0], f"{name}\n{shape}, K = {site.num_codes}")
    figure.suptitle(title)
    return figure


def _label(axes: Axes, text: str) -> None:
    axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize="small")
