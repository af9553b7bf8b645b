"""A Matplotlib figure that a notebook shows."""

from __future__ import annotations

import io

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
