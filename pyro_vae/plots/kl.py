"""Figures: the KL of each latent site over training, and unit by unit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pyro_vae.evaluation.latent_units import ACTIVE, LatentStatistics, SiteStatistics
from pyro_vae.plots.axes import panels
from pyro_vae.plots.drawing import Figure, canvas
from pyro_vae.plots.registry import NotApplicable, figure

DEAD = 0.01  # nats: below, the colour scale is linear, above logarithmic


@figure(section="Training", caption="Raw KL of every latent site over training.", order=1)
def kl_heatmap(records: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Figure:
    """Raw KL of every latent site (rows, in the records' order: the model's) over epochs (columns), nats per datum.

    The colour scale is logarithmic from 0.01 nats on, so that a site of a hundredth of a nat and one of tens are both
    seen to change. Epochs without a value are grey.

    Args:
        records: the lines of ``metrics.jsonl``, with ``epoch`` and ``train/kl/<site>``.
        ax: where to draw; None: in a new figure.

    Returns:
        the figure.

    Raises:
        NotApplicable: if no KL was recorded.

    Example:
        >>> from pyro_vae.plots import kl_heatmap
        >>> figure = kl_heatmap([{"epoch": 1, "train/kl/z": 0.5}, {"epoch": 2, "train/kl/z": 3.0}])
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['z']
    """
    prefix = "train/kl/"
    rows = [record for record in records if any(key.startswith(prefix) for key in record)]
    if not rows:
        raise NotApplicable("the records hold no KL of a latent site")
    found = (key.removeprefix(prefix) for record in rows for key in record if key.startswith(prefix))
    sites = list(dict.fromkeys(found))
    first, last = rows[0]["epoch"], rows[-1]["epoch"]
    values = np.full((len(sites), last - first + 1), np.nan)
    for record in rows:
        values[:, record["epoch"] - first] = [record.get(prefix + site, math.nan) for site in sites]
    figure, axes = canvas((8, max(2.2, 0.34 * len(sites) + 1.3)), ax)
    axes.set_facecolor("0.8")
    largest = max(np.max(values, where=np.isfinite(values), initial=0.0), 10 * DEAD)
    image = axes.imshow(
        values,
        aspect="auto",
        interpolation="nearest",
        cmap="viridis",
        norm=SymLogNorm(DEAD, linscale=0.3, vmin=0.0, vmax=largest),
        extent=(first - 0.5, last + 0.5, len(sites) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(sites)), sites)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", title="Raw KL of the latent sites over training")
    decades = range(round(math.log10(DEAD)), math.floor(math.log10(largest)) + 1)
    ticks = [0.0, *(10.0**k for k in decades)]
    bar = figure.colorbar(image, ax=axes, label="KL (nats per datum)", pad=0.02, ticks=ticks)
    bar.ax.set_yticklabels([f"{tick:g}" for tick in ticks])
    bar.minorticks_off()
    return figure


@figure(section="Latents", caption="Raw KL of every unit, in falling order; active units in colour.")
def kl_per_unit(latents: LatentStatistics) -> Figure:
    """A panel per latent site, in the model's order: the raw KL of its units in falling order, active ones in colour.

    Functions of other latents (the vectors of codes) have no panel: all their KL is 0.

    Args:
        latents: as from :func:`pyro_vae.evaluation.latent_statistics`.

    Returns:
        the figure.

    Raises:
        NotApplicable: if there is no latent site, or none with units (codes under a prior that is no product
            over positions).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> latents = pyro_vae.evaluation.latent_statistics(model, guide, torch.ones(20, 1, 8, 8))
        >>> len(pyro_vae.plots.kl_per_unit(latents).axes)
        1
    """
    sites = {name: site for name, site in latents.sites.items() if not site.is_function}
    if all(site.kl_per_unit.numel() == 1 and site.variance is None for site in sites.values()):
        reason = f"no units in {', '.join(sites)}" if sites else "there is no latent site"
        raise NotApplicable(reason)
    figure, places = panels(len(sites), 4.2, 3.2)
    highest = max(site.kl_per_unit.max().item() for site in sites.values())
    for axes, (name, site) in zip(places, sites.items(), strict=True):
        _draw(axes, name, site)
        axes.set_ylim(0, max(1.5 * highest, 10 * DEAD))
    if any(site.active is not None for site in sites.values()):
        handles = [Patch(color="C0", label=f"active: variance of the posterior mean over data > {ACTIVE:g}")]
        handles.append(Patch(color="0.65", label="not active"))
        figure.legend(handles=handles, loc="outside lower center", ncols=2 if len(places) > 1 else 1, fontsize="small")
    figure.suptitle(f"{latents.split}: raw KL of the units, mean over {latents.num_data} data")
    return figure


def _draw(axes: Axes, name: str, site: SiteStatistics) -> None:
    kl, order = site.kl_per_unit.flatten().sort(descending=True)
    matching = site.active is not None and site.active.shape == site.kl_per_unit.shape
    active = site.active.flatten()[order] if matching else torch.ones(len(kl), dtype=torch.bool)
    edges = torch.arange(len(kl) + 1) + 0.5
    axes.stairs(kl.numpy(), edges.numpy(), fill=True, color="0.65")
    axes.stairs(torch.where(active, kl, 0.0).numpy(), edges.numpy(), fill=True, color="C0")
    text = "" if site.active is None else f"{site.num_active} of {site.active.numel()} units active, "
    axes.set_title(f"{name}: {text}{site.kl:.2f} nats", fontsize="medium")
    axes.set_yscale("symlog", linthresh=DEAD, linscale=0.3)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    whole = len(kl) == 1 and site.active is not None and site.active.numel() > 1
    axes.set(
        xlabel="all units together" if whole else "unit, by KL", ylabel="KL (nats per datum)", xlim=(0.5, len(kl) + 0.5)
    )
    axes.grid(axis="y", alpha=0.3)
