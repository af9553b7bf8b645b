"""Points of latent space, a panel for every site."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.evaluation.figures.labels import class_colours, class_legend
from pyro_vae.evaluation.figures.panels import panels
from pyro_vae.evaluation.latents import principal_components


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
