"""How evenly codes are used."""

from __future__ import annotations

import logging

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_vae.evaluation.code_statistics import CodeStatistics, CodeUsage
from pyro_vae.evaluation.figures.panels import panels

logger = logging.getLogger(__name__)


def codebook_usage(statistics: CodeStatistics) -> Figure | None:
    """A panel per code site: how often each code was used, in falling order, on a logarithmic axis.

    A dashed line is where all bars would end if the codes were used evenly; the codes that were never used are shaded.

    Args:
        statistics: as from :func:`pyro_vae.evaluation.code_statistics`.

    Returns:
        the figure, or None (and a line in the log) if there is no code site.
    """
    if not statistics.sites:
        logger.info("no figure of the codes' usage: the model has none")
        return None
    figure, places = panels(len(statistics.sites), 4.4, 3.4)
    for axes, (name, site) in zip(places, statistics.sites.items(), strict=True):
        _draw(axes, name, site)
    figure.suptitle(f"{statistics.split}: usage of the codes over {statistics.num_data} data")
    return figure


def _draw(axes: Axes, name: str, site: CodeUsage) -> None:
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
    told = f"{site.num_used} of {site.num_codes} in use ({100 * site.usage:.0f} %), perplexity {site.perplexity:.1f}"
    axes.set_title(f"{name}\n{told}", fontsize="medium")
    axes.legend(fontsize="small", loc="upper right")
    axes.grid(axis="y", alpha=0.3)
