"""The figure of a sweep: every run, and the mean and spread over seeds of every setting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from pyro_vae.plots.drawing import canvas

if TYPE_CHECKING:
    from pyro_vae.sweeps.results import SweepResult

MOST = 40  # settings in a figure, the best


def draw_settings(found: SweepResult) -> Figure:
    """A row a setting, best above: its runs as dots, their mean with the standard deviation over seeds as a bar.

    Args:
        found: of the sweep.
    """
    shown = [each for each in found.settings if each.measured][:MOST]
    parts = list(shown[0].measured)
    figure, axes = canvas((8.0, 1.4 + 0.36 * len(shown) * max(1, len(parts) / 2)))
    for p, part in enumerate(parts):
        offset = 0.16 * (p - (len(parts) - 1) / 2)
        places = [place + offset for place in range(len(shown))]
        measured = [each.measured[part] for each in shown]
        bars = [0.0 if math.isnan(one.seed_deviation) else one.seed_deviation for one in measured]
        label = f"{part}: mean, standard deviation over seeds"
        axes.errorbar([one.mean for one in measured], places, xerr=bars, fmt="|", color=f"C{p}", label=label, capsize=3)
        for place, each in zip(places, shown, strict=True):
            values = [run[part] for run in found.runs if run["setting"] == each.name]
            axes.plot(values, [place] * len(values), "o", color=f"C{p}", alpha=0.5, markersize=4, markeredgewidth=0)
    axes.set_yticks(range(len(shown)), [each.name for each in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set(
        xlabel="log-likelihood (importance-weighted bound), nats per datum", title="settings, best by validation first"
    )
    axes.grid(alpha=0.3, axis="x")
    axes.legend(loc="best", fontsize="small")
    return figure
