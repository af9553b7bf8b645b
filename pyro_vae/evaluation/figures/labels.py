"""Labels as colours."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

logger = logging.getLogger(__name__)
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
