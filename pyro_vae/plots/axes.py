"""Helpers of figures: panels, colours of labels, and scatter plots of latents."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from torch import Tensor

from pyro_vae.evaluation.encoding import principal_components
from pyro_vae.plots.drawing import Figure

logger = logging.getLogger(__name__)


def panels(count: int, width: float, height: float, most: int = 4) -> tuple[Figure, list[Axes]]:
    """A figure with a number of panels in rows, as square as can be; one alone is larger.

    Args:
        count: how many.
        width, height: inches of each.
        most: panels in a row, at most.

    Returns:
        the figure and its panels, row by row; the places that are left over are empty.
    """
    columns = min(most, count if count <= 3 else math.ceil(math.sqrt(count)))
    rows = -(-count // columns)
    larger = 1.4 if count == 1 and width < 5 else 1.0
    figure = Figure(figsize=(larger * width * columns, larger * height * rows + 0.4), layout="constrained")
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in every[count:]:
        axes.remove()
    return figure, every[:count]


MAX_CLASSES = 20  # more cannot be told apart by colour


def class_labels(batch: Mapping[str, Tensor]) -> Tensor | None:
    """The labels ``(n,)``, if they are classes, few enough to have a colour each."""
    y = batch.get("y")
    if y is None or y.dim() != 1 or y.is_floating_point():
        return None
    classes = len(y.unique())
    if classes > MAX_CLASSES:
        logger.info("the scatter of latents is not coloured: %d classes are more than %d", classes, MAX_CLASSES)
        return None
    return y.cpu()


def class_colours(labels: Tensor) -> dict[int, Any]:
    """A colour for every class."""
    classes = labels.unique().tolist()
    palette = matplotlib.colormaps["tab10" if len(classes) <= 10 else "tab20"]
    return {k: palette(i) for i, k in enumerate(classes)}


def class_legend(figure: Figure, labels: Tensor) -> None:
    """Say in an inch beside the figure which colour is which class."""
    figure.set_figwidth(figure.get_figwidth() + 1)
    colours = class_colours(labels)
    marks = [Line2D([], [], marker="o", linestyle="", color=colours[k], label=str(k)) for k in colours]
    figure.legend(handles=marks, title="y", loc="outside right upper", ncols=1 + (len(marks) > 14))


def clouds(sites: Mapping[str, Tensor], labels: Tensor | None, title: str) -> Figure:
    """A scatter of every site's points: in the plane, in that of their principal components, or as a histogram.

    Args:
        sites: ``(n, *event)`` by name, at least 3 points.
        labels: classes ``(n,)`` to colour by, or None.
        title: of the figure.
    """
    few = len(sites) <= 3
    figure, places = panels(len(sites), *((5, 4.7) if few else (3.7, 3.6)), most=3 if few else 4)
    for axes, (name, values) in zip(places, sites.items(), strict=True):
        _draw(axes, name, values.flatten(1) if values.dim() > 1 else values.unsqueeze(1), labels)
    if labels is not None:
        class_legend(figure, labels)
    figure.suptitle(title)
    return figure


def _draw(axes: Axes, name: str, points: Tensor, labels: Tensor | None) -> None:
    """Draw one site's points ``(n, dim)``."""
    points = points.float()
    dim = points.shape[1]
    if dim == 1:
        _histogram(axes, name, points[:, 0], labels)
        return
    if dim == 2:
        xy, names = points, [f"{name}[0]", f"{name}[1]"]
        axes.set_title(f"{name} (2 dimensions)")
    else:
        xy, _, explained = principal_components(points)
        parts = [f"{100 * part:.1f}" for part in explained.tolist()]
        names = [f"component {i + 1} ({part} % of the variance)" for i, part in enumerate(parts)]
        axes.set_title(f"{name} ({dim} dimensions)")
    colours = "C0" if labels is None else [class_colours(labels)[k] for k in labels.tolist()]
    axes.scatter(*xy.T.tolist(), c=colours, s=9, alpha=0.7, linewidths=0)
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.3)


def _histogram(axes: Axes, name: str, values: Tensor, labels: Tensor | None) -> None:
    groups, colours = [values.tolist()], ["C0"]
    if labels is not None:
        palette = class_colours(labels)
        groups, colours = [values[labels == k].tolist() for k in palette], list(palette.values())
    axes.hist(groups, bins=40, stacked=True, color=colours)
    axes.set(title=f"{name} (1 dimension)", xlabel=name, ylabel="number of data")
