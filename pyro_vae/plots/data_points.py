"""Figure: data of one or two numbers each, which are points and no curves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from pyro_vae.data import Split
from pyro_vae.evaluation.generate import draw, reconstruct
from pyro_vae.plots.axes import clouds
from pyro_vae.plots.images import in_shape, is_point, kind, pick
from pyro_vae.plots.registry import NotApplicable, figure
from pyro_vae.programs.context import X
from pyro_vae.programs.program import Batch

NUM_POINTS = 1000


@figure(
    section="Samples",
    caption="Data of one or two numbers each, what the model makes of them through the latents, and draws of it.",
    order=-1,
    given=lambda run: dict(zip(("n", "batch"), run.context(NUM_POINTS), strict=True)),
    pictures=True,
)
def points(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    n: int = NUM_POINTS,
    seed: int = 0,
    batch: Batch | None = None,
) -> Figure:
    """Data, means of p(x | z) with z ~ q(z | x), and draws x ~ p(x), as points in a plane or as histograms.

    Args:
        model, guide: the programs.
        split: the data, of which n at even distances are drawn.
        n: how many of each.
        seed: of the draws.
        batch: context that the model needs to generate, ``(n, ...)`` each.

    Returns:
        the figure.

    Raises:
        NotApplicable: if a datum has more than two numbers.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((2,), latent_dim=2, likelihood=pyro_vae.likelihoods.Gaussian())
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> split = pyro_vae.data.Split({"x": torch.randn(20, 2)})
        >>> len(pyro_vae.plots.points(model, guide, split, n=10).axes)
        3
    """
    if not is_point(split.shape):
        raise NotApplicable(f"data of shape {split.shape} are no points of one or two numbers")
    given = pick(split, n, seed)
    mean = in_shape(reconstruct(model, guide, given, seed=seed), split.shape)
    drawn = draw(model, n, seed=seed, batch=batch)
    of_model = in_shape(drawn.values.get(drawn.site, drawn.mean), split.shape)
    sites = {"x": given[X].cpu(), f"{kind(mean)} of p(x | z)": mean, "draw of p(x)": of_model}
    figure = clouds({name: v.reshape(len(v), math.prod(split.shape)) for name, v in sites.items()}, None, "")
    for axes in figure.axes:
        axes.set_aspect("equal" if math.prod(split.shape) == 2 else "auto", adjustable="box")
    for axes in figure.axes[1:]:
        axes.sharex(figure.axes[0])
        if math.prod(split.shape) == 2:
            axes.sharey(figure.axes[0])
    figure.axes[0].autoscale()  # over all that share its scale
    figure.suptitle(f"{split.name}: data, reconstructions with z ~ q(z | x), and draws of the model")
    return figure
