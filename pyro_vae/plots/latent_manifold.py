"""Figure: what the decoder makes of a grid of points in a two-dimensional latent space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Pictures
from pyro_vae.evaluation.generate import decode
from pyro_vae.plots.drawing import canvas
from pyro_vae.plots.images import Limits, is_image, kind, mosaic, range_in_words, shaped_like_x
from pyro_vae.plots.registry import NotApplicable, figure
from pyro_vae.plots.view import View
from pyro_vae.programs.context import X, needed_to_generate
from pyro_vae.programs.program import Batch, as_program
from pyro_vae.programs.session import generated, in_evaluation
from pyro_vae.programs.sites import factors, in_data_plate, mean_of
from pyro_vae.programs.traces import Site, is_latent

LOW, HIGH = 0.02, 0.98  # quantiles of the prior at the edges


def manifold_grid(n: int) -> Tensor:
    r"""Standard-normal quantiles in two dimensions: ``z = Phi^{-1}(u)``, u evenly spaced in [0.02, 0.98].

    Args:
        n: points on a side.

    Returns:
        ``(n * n, 2)``, row by row from the top: z[0] grows to the right, z[1] upwards.

    Example:
        >>> from pyro_vae.plots import manifold_grid
        >>> manifold_grid(5).shape
        torch.Size([25, 2])
    """
    axis = torch.special.ndtri(torch.linspace(LOW, HIGH, n, dtype=torch.float64)).float()  # (n,)
    up, right = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    return torch.stack([right, up], -1).reshape(n * n, 2)


@figure(
    section="Traversals",
    caption="The latent plane, decoded.",
    order=2,
    given=lambda run: {"batch": run.context(10)[1]},
    pictures=True,
)
def manifold(
    model: Callable[..., Any],
    n: int = 20,
    batch: Batch | None = None,
    ax: Axes | None = None,
    pictures: Pictures | None = None,
) -> Figure:
    """Means of p(x | z) for z on a grid through the inverse normal CDF of the prior.

    Args:
        model: a generative program of images, whose only latent site has a Gaussian prior over two dimensions.
        n: images on a side.
        batch: ``x``, as for :func:`~pyro_vae.plots.prior_samples`.
        ax: where to draw; None: in a new figure.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: for another model.

    Source: Kingma & Welling 2014, arXiv:1312.6114, figure 4.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> len(pyro_vae.plots.manifold(model, n=5).axes)
        1
    """
    program = as_program(model)
    if needed_to_generate(program):
        raise NotApplicable(f"the model needs {', '.join(needed_to_generate(program))}")
    x = {name: value for name, value in (batch or {}).items() if name == X}
    with in_evaluation([program], x, seed=0) as moved:
        trace, site = generated(program, 1, moved)
    latents = {name: node for name, node in trace.nodes.items() if is_latent(node) and name != site}
    view = View(tuple(shaped_like_x(mean_of(trace.nodes[site]), x).shape[1:]), x, pictures)
    reason = _why_not(latents, tuple(view(mean_of(trace.nodes[site])).shape[1:]))
    if reason:
        raise NotApplicable(reason)
    ((name, node),) = latents.items()
    normal = factors(node["fn"])[0]
    loc, scale = normal.loc.reshape(-1, 2)[0].cpu(), normal.scale.reshape(-1, 2)[0].cpu()
    mean = decode(program, {name: loc + scale * manifold_grid(n)}, batch=x)
    return _draw(view(mean), kind(mean), name, n, view.limits, ax)


def _why_not(latents: dict[str, Site], shape: tuple[int, ...]) -> str:
    if not is_image(shape):
        return f"data of shape {shape} are no images"
    if len(latents) != 1:
        return f"it needs one latent site, the model has {len(latents)} ({', '.join(latents)})"
    ((name, node),) = latents.items()
    event = tuple(node["fn"].event_shape)
    if event != (2,) or not in_data_plate(node):
        return f"it needs a latent of 2 dimensions per datum, '{name}' has event shape {event}"
    if not isinstance(factors(node["fn"])[0], dist.Normal):
        return f"it needs a Gaussian prior, that of '{name}' is {type(factors(node['fn'])[0]).__name__}"
    return ""


def _draw(mean: Tensor, what: str, name: str, n: int, limits: Limits, ax: Axes | None) -> Figure:
    height, width = mean.shape[-2:]
    figure, axes = canvas((7, 7 * height / width + 0.4), ax)
    axes.imshow(mosaic(mean, n, gap=0, limits=limits))
    parts = [i / 4 for i in range(5)] if n > 1 else [0.0]  # of the way from the first image's centre to the last's
    texts = [f"{LOW + (HIGH - LOW) * part:.2f}" for part in parts]
    axes.set_xticks([(part * (n - 1) + 0.5) * width - 0.5 for part in parts], texts)
    axes.set_yticks([((1 - part) * (n - 1) + 0.5) * height - 0.5 for part in parts], texts)
    axes.set(xlabel=f"{name}[0] (quantile of the prior)", ylabel=f"{name}[1] (quantile of the prior)")
    text = range_in_words(limits)
    axes.set_title(f"{what.capitalize()} of p(x | {name}) over the latent plane{text and f'; {text}'}")
    return figure
