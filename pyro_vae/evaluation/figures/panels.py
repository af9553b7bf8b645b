"""Several panels in one figure, and the order of latent sites in it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure


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


def from_the_top(names: Iterable[str]) -> list[str]:
    """Latent sites with the top one first: by the number in their names, as in ``z3``, ``z2_td``, ``z2_bu``, ``z1``.

    Names without a number come last; equal ones stay in the order in which they came.
    """

    def height(name: str) -> int:
        number = re.search(r"\d+", name)
        return int(number.group()) if number else -1

    return sorted(names, key=height, reverse=True)
