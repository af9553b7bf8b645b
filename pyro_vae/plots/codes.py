"""Figures: codes beside the data that they stand for, and how often each code is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae.data import Pictures, Split
from pyro_vae.evaluation.codes import CodeSite, CodeStatistics, CodeUsage, sites_of_codes
from pyro_vae.evaluation.encoding import posterior_samples
from pyro_vae.plots.axes import panels
from pyro_vae.plots.drawing import Figure
from pyro_vae.plots.images import Limits, code_colours, draw_curve, is_drawable, is_image, mosaic, pick
from pyro_vae.plots.registry import NotApplicable, figure
from pyro_vae.plots.view import View
from pyro_vae.programs.context import X

STRIP = 0.28  # height of a sequence of codes, of a datum's width


@figure(section="Codes", caption="Data and their codes, a colour for each code.", order=1, pictures=True)
def code_maps(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    n: int = 10,
    seed: int = 0,
    pictures: Pictures | None = None,
) -> Figure:
    """Rows: data, and for each code site the guide's codes, a colour for each code; a column for each datum.

    A grid of codes is a picture, a sequence a strip, both as wide as the datum. The colours of different sites have
    nothing to do with one another, nor have similar colours with similar codes.

    Args:
        model, guide: the programs.
        split: the data, of which n at even distances are drawn.
        n: columns.
        seed: of the draws of a guide that has any.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: if there are no codes on a grid or in a sequence, or the data are neither images nor
            signals.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VQVAE((3, 16, 16), num_codes=32, code_dim=4, channels=8)
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 3, 16, 16).mul(255).byte()})
        >>> figure = pyro_vae.plots.code_maps(model, pyro_vae.guides.VQGuide(model), split, n=4)
        >>> len(figure.axes)  # 4 data and their codes
        8
    """
    every = sites_of_codes(model, guide, split)
    sites = {name: site for name, site in every.items() if len(site.shape) <= 2}
    if not sites or not (pictures or is_drawable(split.shape)):
        reason = f"data of shape {split.shape} are neither images nor signals"
        if not sites:
            reason = f"those of {', '.join(every)} are on no grid" if every else "the model has no codes"
        raise NotApplicable(reason)
    batch = pick(split, n, seed)
    view = View(split.shape, batch, pictures)
    codes = posterior_samples(model, guide, batch, seed=seed, sites=list(sites))
    return _draw(view(batch[X]), codes, sites, f"{split.name}: the data's codes, a colour for each", view.limits)


def _draw(x: Tensor, codes: dict[str, Tensor], sites: dict[str, CodeSite], title: str, limits: Limits) -> Figure:
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
            axes.imshow(mosaic(x[i : i + 1], columns=1, limits=limits))
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


@figure(section="Codes", caption="How often each code is used.")
def codebook_usage(codes: CodeStatistics) -> Figure:
    """A panel per code site: how often each code was used, in falling order, on a logarithmic axis.

    A dashed line is where all bars would end if the codes were used evenly; the codes that were never used are shaded.

    Args:
        codes: as from :func:`pyro_vae.evaluation.code_statistics`.

    Returns:
        the figure.

    Raises:
        NotApplicable: if there is no code site.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VQVAE((3, 16, 16), num_codes=32, code_dim=4, channels=8)
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 3, 16, 16).mul(255).byte()})
        >>> codes = pyro_vae.evaluation.code_statistics(model, pyro_vae.guides.VQGuide(model), split)
        >>> len(pyro_vae.plots.codebook_usage(codes).axes)
        1
    """
    if not codes.sites:
        raise NotApplicable("the model has no codes")
    figure, places = panels(len(codes.sites), 4.4, 3.4)
    for axes, (name, site) in zip(places, codes.sites.items(), strict=True):
        _draw_usage(axes, name, site)
    figure.suptitle(f"{codes.split}: usage of the codes over {codes.num_data} data")
    return figure


def _draw_usage(axes: Axes, name: str, site: CodeUsage) -> None:
    counts = site.counts.sort(descending=True).values.double()
    even = counts.sum().item() / site.num_codes
    bottom = 0.5 * min(1.0, even)
    edges = [0.5 + i for i in range(site.num_codes + 1)]
    axes.stairs(counts.clamp(min=bottom).numpy(), edges, baseline=bottom, fill=True, color="C0")
    axes.axhline(even, color="C1", linestyle="--", linewidth=1, label="even usage")
    if site.num_used < site.num_codes:
        axes.axvspan(site.num_used + 0.5, site.num_codes + 0.5, color="0.9", zorder=0, label="never used")
    axes.set_yscale("log")
    axes.set(xlim=(0.5, site.num_codes + 0.5), ylim=(bottom, 2 * counts[0].item()))
    axes.set(xlabel="code, by count", ylabel="count")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    words = f"{site.num_used} of {site.num_codes} in use ({100 * site.usage:.0f} %), perplexity {site.perplexity:.1f}"
    axes.set_title(f"{name}\n{words}", fontsize="medium")
    axes.legend(fontsize="small", loc="upper right")
    axes.grid(axis="y", alpha=0.3)
