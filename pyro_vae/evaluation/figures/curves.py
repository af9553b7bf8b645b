"""Data as lines."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

LONGEST = 1000  # points of a line; a longer one is drawn as the band that it fills
BANDS = 400  # at most so many neighbourhoods of it, about a pixel wide each
FEW = 30  # points that have a mark each


def draw_curve(axes: Axes, values: Tensor, marker_size: float | None = None, **style: Any) -> None:
    """Draw a vector ``(L,)``, or a signal ``(1, L)``, over the index of its entries.

    More than 1000 entries, as of sound, are drawn as the band between the least and the greatest of every few
    neighbours: what the line would look like, at a fraction of the work.

    Args:
        axes: where.
        values: the curve.
        marker_size: of the marks that a short curve has.
        style: of the line: colour, label, ...
    """
    values = values.detach().flatten().float().cpu()
    if len(values) <= LONGEST:
        if len(values) < FEW:
            style |= {"marker": ".", "markersize": marker_size}
        axes.plot(values.tolist(), **style)
        return
    step = -(-len(values) // BANDS)
    padded = torch.cat([values, values[-1:].expand(-len(values) % step)]).reshape(-1, step)  # (bands, step)
    low, high = padded.amin(1), padded.amax(1)
    places = torch.arange(len(low)) * step
    style = {name: value for name, value in style.items() if name in ("color", "label", "alpha")}
    axes.fill_between(places.tolist(), low.tolist(), high.tolist(), linewidth=0.3, **style)
