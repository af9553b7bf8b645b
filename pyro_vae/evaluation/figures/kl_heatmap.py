"""When each latent site came to life."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_vae.evaluation.figures.panels import from_the_top

logger = logging.getLogger(__name__)
DEAD = 0.01  # nats: below, the colour scale is linear, above logarithmic


def kl_heatmap(records: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Raw KL of every latent site (rows, the top one at the top) over epochs (columns), nats per datum.

    The colour scale is logarithmic from 0.01 nats on, so that a site of a hundredth of a nat and one of tens are both
    seen to change. Epochs without a value are grey.

    Args:
        records: the lines of ``metrics.jsonl``, with ``epoch`` and ``train/kl/<site>``.

    Returns:
        the figure, or None (and a line in the log) if no KL was recorded.
    """
    prefix = "train/kl/"
    rows = [record for record in records if any(key.startswith(prefix) for key in record)]
    if not rows:
        logger.info("no figure of the KL over training: the records hold no KL of a latent site")
        return None
    names = dict.fromkeys(key.removeprefix(prefix) for record in rows for key in record if key.startswith(prefix))
    sites = from_the_top(names)
    first, last = rows[0]["epoch"], rows[-1]["epoch"]
    values = np.full((len(sites), last - first + 1), np.nan)
    for record in rows:
        values[:, record["epoch"] - first] = [record.get(prefix + site, math.nan) for site in sites]
    figure = Figure(figsize=(8, max(2.2, 0.34 * len(sites) + 1.3)), layout="constrained")
    axes = figure.subplots()
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
