"""How the KL of a latent site is shared among its units."""

from __future__ import annotations

import logging

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pyro_vae.evaluation.figures.panels import from_the_top, panels
from pyro_vae.evaluation.latent_statistics import ACTIVE, LatentStatistics, SiteStatistics

logger = logging.getLogger(__name__)
DEAD = 0.01  # nats: below, the axis is linear, above logarithmic


def kl_per_unit(statistics: LatentStatistics) -> Figure | None:
    """A panel per latent site, the top one first: the raw KL of its units in falling order, active ones in colour.

    Functions of other latents (the vectors of codes) have no panel: all their KL is 0.

    Args:
        statistics: as from :func:`pyro_vae.evaluation.latent_statistics`.

    Returns:
        the figure, or None (and a line in the log) if there is no latent site, or none with units (codes under a prior
        that is no product over positions).
    """
    sites = {name: site for name, site in statistics.sites.items() if not site.is_function}
    if all(site.kl_per_unit.numel() == 1 and site.variance is None for site in sites.values()):
        reason = f"no units in {', '.join(sites)}" if sites else "there is no latent site"
        logger.info("no figure of the KL per unit: %s", reason)
        return None
    figure, places = panels(len(sites), 4.2, 3.2)
    highest = max(site.kl_per_unit.max().item() for site in sites.values())
    for axes, name in zip(places, from_the_top(sites), strict=True):
        _draw(axes, name, sites[name])
        axes.set_ylim(0, max(1.5 * highest, 10 * DEAD))
    if any(site.active is not None for site in sites.values()):
        handles = [Patch(color="C0", label=f"active: variance of the posterior mean over data > {ACTIVE:g}")]
        handles.append(Patch(color="0.65", label="not active"))
        figure.legend(handles=handles, loc="outside lower center", ncols=2 if len(places) > 1 else 1, fontsize="small")
    figure.suptitle(f"{statistics.split}: raw KL of the units, mean over {statistics.num_data} data")
    return figure


def _draw(axes: Axes, name: str, site: SiteStatistics) -> None:
    kl, order = site.kl_per_unit.flatten().sort(descending=True)
    matching = site.active is not None and site.active.shape == site.kl_per_unit.shape
    active = site.active.flatten()[order] if matching else torch.ones(len(kl), dtype=torch.bool)
    edges = torch.arange(len(kl) + 1) + 0.5
    axes.stairs(kl.numpy(), edges.numpy(), fill=True, color="0.65")
    axes.stairs(torch.where(active, kl, 0.0).numpy(), edges.numpy(), fill=True, color="C0")
    told = "" if site.active is None else f"{site.num_active} of {site.active.numel()} units active, "
    axes.set_title(f"{name}: {told}{site.kl:.2f} nats", fontsize="medium")
    axes.set_yscale("symlog", linthresh=DEAD, linscale=0.3)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlabel="unit, by KL", ylabel="KL (nats per datum)", xlim=(0.5, len(kl) + 0.5))
    axes.grid(axis="y", alpha=0.3)
