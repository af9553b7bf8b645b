"""Where the data lie in latent space."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.evaluation.figures.pick import pick
from pyro_vae.evaluation.latents import encode, principal_components

logger = logging.getLogger(__name__)
MAX_CLASSES = 20  # more cannot be told apart by colour


def latent_scatter(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, max_points: int = 2000, seed: int = 0
) -> Figure | None:
    """A panel per latent site: posterior means of the data, coloured by the label ``y`` if there is one.

    Two-dimensional latents are drawn as they are, one-dimensional ones as a histogram, others by their first two
    principal components.

    Args:
        model, guide: the programs.
        split: the data, of which ``max_points`` at even distances are drawn.
        max_points: at most so many.
        seed: of draws, where a posterior mean needs any.

    Returns:
        the figure, or None (and a line in the log) if there are too few data.
    """
    batch = pick(split, max_points, seed)
    if len(batch["x"]) < 3:
        logger.info("no scatter of latents: %d data are too few", len(batch["x"]))
        return None
    sites = encode(model, guide, batch, seed=seed)
    labels = _labels(batch)
    columns = min(3, len(sites))
    rows = -(-len(sites) // columns)
    figure = Figure(figsize=(5 * columns + 1, 4.7 * rows + 0.4), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (name, values) in zip(panels, sites.items(), strict=False):
        _draw(axes, name, values.flatten(1) if values.dim() > 1 else values.unsqueeze(1), labels)
    for axes in panels[len(sites) :]:
        axes.set_axis_off()
    if labels is not None:
        colours = _colours(labels)
        marks = [Line2D([], [], marker="o", linestyle="", color=colours[k], label=str(k)) for k in colours]
        figure.legend(handles=marks, title="y", loc="outside right upper", ncols=1 + (len(marks) > 14))
    figure.suptitle(f"{split.name}: posterior means of {len(batch['x'])} data")
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
        names = [f"principal component {i + 1} ({part} % of the variance)" for i, part in enumerate(parts)]
        axes.set_title(f"{name} ({dim} dimensions)")
    colours = "C0" if labels is None else [_colours(labels)[k] for k in labels.tolist()]
    axes.scatter(*xy.T.tolist(), c=colours, s=9, alpha=0.7, linewidths=0)
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.3)


def _histogram(axes: Axes, name: str, values: Tensor, labels: Tensor | None) -> None:
    groups, colours = [values.tolist()], ["C0"]
    if labels is not None:
        palette = _colours(labels)
        groups, colours = [values[labels == k].tolist() for k in palette], list(palette.values())
    axes.hist(groups, bins=40, stacked=True, color=colours)
    axes.set(title=f"{name} (1 dimension)", xlabel=name, ylabel="number of data")


def _labels(batch: dict[str, Tensor]) -> Tensor | None:
    """The labels ``(n,)``, if they are classes, few enough to have a colour each."""
    y = batch.get("y")
    if y is None or y.dim() != 1 or y.is_floating_point():
        return None
    classes = len(y.unique())
    if classes > MAX_CLASSES:
        logger.info("the scatter of latents is not coloured: %d classes are more than %d", classes, MAX_CLASSES)
        return None
    return y.cpu()


def _colours(labels: Tensor) -> dict[int, Any]:
    classes = labels.unique().tolist()
    palette = matplotlib.colormaps["tab10" if len(classes) <= 10 else "tab20"]
    return {k: palette(i) for i, k in enumerate(classes)}
