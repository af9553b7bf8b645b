"""A figure of the images drawn for each text, with their scores."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from torch import Tensor

from pyro_vae.errors import NotApplicable
from pyro_vae.plots.drawing import Figure
from pyro_vae.plots.images import is_image, mosaic

MOST_COLUMNS = 8
SIDE, LINE = 1.0, 0.28  # inches: an image is wide; a line of text is high


def contact_sheet(images: Tensor, texts: Sequence[str], scores: Tensor | None, title: str) -> Figure:
    """A panel of images for each text, in the order in which they come; beneath each image its score.

    Args:
        images: ``(M, num, *shape)``.
        texts: M of them.
        scores: ``(M, num)``, or None.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        NotApplicable: if the data are no images.
    """
    shape = tuple(images.shape[2:])
    if not is_image(shape):
        raise NotApplicable(f"data of shape {shape} are no images")
    count, (height, width) = images.shape[1], shape[-2:]
    columns = min(count, MOST_COLUMNS)
    rows = math.ceil(count / columns)
    across = max(5.0, SIDE * columns + 0.4)
    titles = ["\n".join(textwrap.wrap(text, int(11 * across))) for text in texts]
    tall = [SIDE * rows * height / width + LINE * (1.5 + text.count("\n") + 0.6 * rows) for text in titles]
    figure = Figure(figsize=(across, sum(tall) + 0.5), layout="constrained")
    panels = figure.subplots(len(texts), squeeze=False, gridspec_kw={"height_ratios": tall})[:, 0]
    gap = max(1, round(height * LINE * 0.8 / SIDE)) if scores is not None else 1  # room for the scores
    for place, axes in enumerate(panels):
        axes.imshow(mosaic(images[place], columns, gap))
        axes.set_title(titles[place], fontsize="medium")
        axes.set_axis_off()
        for i, score in enumerate([] if scores is None else scores[place].tolist()):
            x, y = (i % columns) * (width + gap) + width / 2, (i // columns) * (height + gap) + height
            axes.text(x, y, f"{score:.2f}", ha="center", va="top", fontsize="x-small")
        axes.set_ylim(rows * (height + gap), -1)  # with the last row's scores
    figure.suptitle(title)
    return figure
