"""Figure: data beside their reconstructions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Pictures, Split
from pyro_vae.evaluation.generate import reconstruct
from pyro_vae.plots.drawing import Figure
from pyro_vae.plots.gaps import with_gaps
from pyro_vae.plots.images import (
    Limits,
    draw_curve,
    is_curve,
    kind,
    mosaic,
    pick,
    range_in_words,
)
from pyro_vae.plots.registry import check_drawable, figure
from pyro_vae.plots.view import View
from pyro_vae.programs.context import X

logger = logging.getLogger(__name__)


@figure(
    section="Reconstructions",
    caption="Data above, and below what the model makes of them through the latents.",
    pictures=True,
)
def reconstructions(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    n: int = 10,
    seed: int = 0,
    pictures: Pictures | None = None,
) -> Figure:
    """Two rows: data, and below each the mean of p(x | z) for one z ~ q(z | x).

    Args:
        model, guide: the programs.
        split: the data, of which n at even distances are drawn.
        n: columns.
        seed: of the draws of z.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: if the data are neither images nor vectors.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 1, 8, 8) > 0.5})
        >>> len(pyro_vae.plots.reconstructions(model, guide, split, n=4).axes)
        1
    """
    check_drawable(split.shape, pictures)
    batch = pick(split, n, seed)
    mean = reconstruct(model, guide, batch, seed=seed)  # (n, *event)
    batch[X] = with_gaps(model, guide, batch)
    return pairs(batch, mean, f"{split.name}: reconstructions, {kind(mean)} of p(x | z) with z ~ q(z | x)", pictures)


def pairs(batch: Mapping[str, Tensor], mean: Tensor, title: str, pictures: Pictures | None = None) -> Figure:
    """Data, and below each (of curves: in the same panel) what was made of it.

    Args:
        batch: the data x ``(n, *shape)``, with what they belong to.
        mean: ``(n, *shape)``; it may be flat, or have a channel more.
        title: of the figure.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: if the data are neither images nor vectors.
    """
    view = View(tuple(batch[X].shape[1:]), batch, pictures)
    x, mean = view(batch[X]), view(mean)
    figure = _curves(x, mean) if is_curve(tuple(x.shape[1:])) else _images(x, mean, view.limits)
    figure.suptitle(title)
    return figure


def _images(x: Tensor, mean: Tensor, limits: Limits) -> Figure:
    n, height, width = len(x), x.shape[-2], x.shape[-1]
    side = 0.95  # inches an image is wide
    figure = Figure(figsize=(max(6.0, side * n + 1.4), 2 * side * height / width + 0.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mosaic(torch.cat([x, mean]), columns=n, limits=limits))
    axes.set_xlabel(range_in_words(limits))
    axes.set_xticks([])
    axes.set_yticks([height / 2, height * 1.5 + 1], ["data", "reconstruction"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _curves(x: Tensor, mean: Tensor) -> Figure:
    n = len(x)
    columns = min(5, n)
    rows = -(-n // columns)
    figure = Figure(figsize=(max(6.0, 2.2 * columns), 1.7 * rows + 0.9), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, datum, its_mean in zip(panels, x, mean, strict=False):
        draw_curve(axes, datum, color="0.6", label="data")
        draw_curve(axes, its_mean, color="C0", linewidth=1, alpha=0.8, label="reconstruction")
    for axes in panels[n:]:
        axes.set_axis_off()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    figure.supylabel("value")
    return figure
