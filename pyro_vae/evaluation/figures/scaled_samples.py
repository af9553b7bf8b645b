"""What the model imagines with less spread in its priors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from pyro_vae.arguments import X
from pyro_vae.evaluation.figures.grid import grid, is_drawable
from pyro_vae.evaluation.figures.images import grey_range, shaped_like_x
from pyro_vae.evaluation.generate import draw
from pyro_vae.evaluation.nodes import in_data_plate
from pyro_vae.evaluation.running import generated, quiet
from pyro_vae.evaluation.scaled import scaled
from pyro_vae.program import Batch, Program
from pyro_vae.traces import is_latent

logger = logging.getLogger(__name__)
SCALES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def scaled_samples(
    model: Callable[..., Any],
    scales: Sequence[float] = SCALES,
    sites: Sequence[str] | None = None,
    n: int = 10,
    seed: int = 0,
    batch: Batch | None = None,
) -> Figure | None:
    """Means of p(x | z) for z drawn from the prior with its standard deviations multiplied by each factor.

    Every row has the same noise, so that a column shows one sample become bolder.

    Args:
        model: the generative program.
        scales: the factors, a row each.
        sites: latent sites to scale; all that have a scale, if None.
        n: columns.
        seed: of the noise.
        batch: context that the model needs, ``(n, ...)`` each; and ``x``, as for
            :func:`~pyro_vae.evaluation.figures.prior_samples`.

    Returns:
        the figure, or None (and a line in the log) if no site has a scale, or the data are neither images nor vectors.

    Raises:
        InputError: for an unknown site, one without a scale, and factors that are not positive.

    Source: Maaløe et al. 2019, arXiv:1902.02102.
    """
    program = model if isinstance(model, Program) else Program(model)
    if sites is None:
        sites = _sites_with_scale(program, batch or {})
    if not sites or not scales:
        logger.info("no figure of scaled samples: no latent site has a prior with a scale")
        return None
    factors = [dict.fromkeys(sites, scale) for scale in scales]
    means = [draw(program, n, seed=seed, batch=batch, scales=each).mean for each in factors]
    means = [shaped_like_x(mean, batch) for mean in means]
    shape = tuple(means[0].shape[1:])
    if not is_drawable(shape):
        logger.info("no figure of scaled samples: data of shape %s are neither images nor vectors", shape)
        return None
    which = "all latent sites" if len(sites) > 4 else ", ".join(sites)
    title = f"Samples from the prior, its deviations scaled: {which}"
    limits = grey_range((batch or {}).get(X))
    return grid(torch.stack(means), title, rows=[f"{scale:g}" for scale in scales], axis="factor", limits=limits)


def _sites_with_scale(program: Program, batch: Batch) -> list[str]:
    one = {name: value if name == X else value[:1] for name, value in batch.items()}
    with quiet([program], one, seed=0) as one:
        trace, site = generated(program, 1, one)
    latents = {name: n for name, n in trace.nodes.items() if is_latent(n) and in_data_plate(n) and name != site}
    return [name for name, node in latents.items() if scaled(node["fn"], 1.0) is not None]
