"""Where figures are drawn: a Matplotlib figure that a notebook shows, or axes of the user's own."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure as PlainFigure


class Figure(PlainFigure):
    """A figure of Matplotlib's that needs no pyplot: a notebook shows what a cell ends with.

    Example:
        >>> from pyro_vae.plots import training_curves
        >>> training_curves([{"epoch": 1, "train/loss": 9.0}])._repr_png_()[1:4]
        b'PNG'
    """

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()


def canvas(size: tuple[float, float], ax: Axes | None = None) -> tuple[PlainFigure, Axes]:
    """A new figure with one pair of axes, or the figure of axes that there are.

    Args:
        size: of a new figure, inches.
        ax: where to draw; None: in a new figure.
    """
    if ax is not None:
        return ax.get_figure(root=True), ax
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()
