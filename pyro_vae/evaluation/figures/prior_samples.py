"""What the model imagines."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

from pyro_vae.arguments import X
from pyro_vae.evaluation.figures.curves import draw_curve
from pyro_vae.evaluation.figures.images import grey_range, is_curve, is_image, kind, mosaic, shaped_like_x, told_range
from pyro_vae.evaluation.generate import draw
from pyro_vae.program import Batch

logger = logging.getLogger(__name__)
MAX_CURVES = 64


def prior_samples(
    model: Callable[..., Any],
    n: int = 64,
    seed: int = 0,
    batch: Batch | None = None,
    columns: int | None = None,
    scales: Mapping[str, float] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float = 0.0,
) -> Figure | None:
    """A grid of means of p(x | z), for z drawn from the prior.

    Args:
        model: the generative program.
        n: how many; of vectors, at most 64.
        seed: of the draws.
        batch: context that the model needs, ``(n, ...)`` each; and ``x``, rows of data, in whose shape the means are
            shown, and which stand in for the data of a model that cannot be run without.
        columns: of the grid; as many as rows if not given.
        scales: factors for the standard deviations of latent sites' priors, by name.
        temperature, top_k, top_p, guidance: as for :func:`~pyro_vae.evaluation.generate.sample`.

    Returns:
        the figure, or None (and a line in the log) if the data are neither images nor vectors.
    """
    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    mean = shaped_like_x(draw(model, n, seed=seed, batch=batch, scales=scales, **how).mean, batch)  # (n, *shape)
    shape = tuple(mean.shape[1:])
    if is_curve(shape):
        mean = mean[:MAX_CURVES]  # a panel each: more would take minutes
    n, limits = len(mean), grey_range((batch or {}).get(X))
    columns = math.ceil(math.sqrt(n)) if columns is None else min(columns, n)
    if is_image(shape):
        figure = Figure(figsize=(7, 7 * shape[-2] / shape[-1] * math.ceil(n / columns) / columns + 0.4))
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        axes.imshow(mosaic(mean, columns, limits=limits))
        axes.set_axis_off()
    elif is_curve(shape):
        figure = Figure(figsize=(7, 7), layout="constrained")
        rows = math.ceil(n / columns)
        panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
        for axes, values in zip(panels, mean, strict=False):
            draw_curve(axes, values, 3, linewidth=1)
            axes.tick_params(labelsize="x-small")
        for axes in panels[n:]:
            axes.set_axis_off()
    else:
        logger.info("no figure of prior samples: data of shape %s are neither images nor vectors", shape)
        return None
    given = ", ".join(name for name in batch or {} if name != "x")
    inner = f"{kind(mean)} of p(x | z"
    inner += f", {given}), z ~ p(z | {given})" if given else "), z ~ p(z)"
    scaled = "".join(f", scale of {site} x {factor:g}" for site, factor in (scales or {}).items())
    tempered = f", temperature {temperature:g}" * (temperature != 1) + f", top {top_k} codes" * (top_k is not None)
    tempered += f", top_p {top_p}" * (top_p is not None) + f", guidance {guidance:g}" * (guidance > 0)
    told = told_range(limits) if is_image(shape) else ""
    figure.suptitle(f"Samples from the prior: {inner}{scaled}{tempered}{told and f'; {told}'}")
    return figure
