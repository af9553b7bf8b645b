"""Data in rows and columns that have a meaning."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.evaluation.figures.curves import draw_curve
from pyro_vae.evaluation.figures.images import Limits, is_curve, is_image, mosaic, told_range


def is_drawable(shape: tuple[int, ...]) -> bool:
    """Whether data of a shape can be drawn: images or vectors."""
    return is_image(shape) or is_curve(shape)


def grid(
    values: Tensor,
    title: str,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    axis: str = "",
    limits: Limits = (0.0, 1.0),
) -> Figure:
    """Images, or curves, in a grid.

    Args:
        values: ``(rows, columns, *shape)``.
        title: of the figure.
        rows, columns: what is said at the left and at the top of each.
        axis: what the rows' labels are.
        limits: what is black and what is white in images.
    """
    if is_image(tuple(values.shape[2:])):
        return _images(values, title, rows, columns, axis, limits)
    return _curves(values, title, rows, columns, axis)


def _images(
    values: Tensor, title: str, rows: Sequence[str], columns: Sequence[str], axis: str, limits: Limits
) -> Figure:
    down, across, height, width = values.shape[0], values.shape[1], values.shape[-2], values.shape[-1]
    side = 0.75  # inches an image is wide
    size = max(6.0, side * across + 1.2), side * down * height / width + 0.8 + 0.3 * bool(columns)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.imshow(mosaic(values.flatten(0, 1), columns=across, limits=limits))
    axes.set_xlabel(told_range(limits))
    axes.xaxis.tick_top()
    axes.set_xticks([(i + 0.5) * (width + 1) - 1 for i in range(len(columns))], columns)
    axes.set_yticks([(i + 0.5) * (height + 1) - 1 for i in range(len(rows))], rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel(axis)
    figure.suptitle(title)
    return figure


def _curves(values: Tensor, title: str, rows: Sequence[str], columns: Sequence[str], axis: str) -> Figure:
    down, across = values.shape[:2]
    figure = Figure(figsize=(max(6.0, 1.3 * across + 0.8), 0.9 * down + 1.0), layout="constrained")
    places = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for i, row in enumerate(values):
        for place, curve in zip(places[i], row, strict=True):
            draw_curve(place, curve, 3, linewidth=1)
            place.tick_params(labelsize="x-small")
    for place, text in zip(places[:, 0], rows, strict=False):
        place.set_ylabel(text, rotation=0, ha="right", va="center", fontsize="small")
    for place, text in zip(places[0], columns, strict=False):
        place.set_title(text, fontsize="small")
    figure.supylabel(axis, fontsize="medium")
    figure.suptitle(title)
    return figure
