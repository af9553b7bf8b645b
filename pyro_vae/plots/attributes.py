"""Figures: directions in latent space that stand for labels, and which of them are alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from pyro_vae.data import Pictures, Split
from pyro_vae.evaluation import latent_space as attributes
from pyro_vae.evaluation.encoding import NO_FREE_SITE, free_sites, mean_path
from pyro_vae.evaluation.latent_space import AttributeVectors, attribute_vectors, decode_path
from pyro_vae.plots.drawing import Figure, canvas
from pyro_vae.plots.images import grid, kind, pick
from pyro_vae.plots.registry import NotApplicable, check_drawable, figure
from pyro_vae.plots.view import View
from pyro_vae.programs.context import X

MAX_ROWS = 20
ALPHAS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)


@figure(pictures=True)
def attribute_arithmetic(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    alphas: Sequence[float] = ALPHAS,
    labels: str = "y",
    datum: int = 0,
    max_data: int = 5000,
    seed: int = 0,
    pictures: Pictures | None = None,
) -> Figure:
    """Means of p(x | z + alpha v_a), z the posterior mean of one datum, v_a the vector of an attribute: a row each.

    Args:
        model, guide: the programs; context that they need is that of the datum.
        split: labelled data, of which ``max_data`` at even distances give the vectors.
        alphas: how much of each vector is added.
        labels: name of the labels in the split: integer classes ``(n,)`` or 0s and 1s ``(n, attributes)``.
        datum: index of the datum that is changed.
        max_data: at most so many.
        seed: of draws.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: for data without such labels or that are neither images nor vectors, or latents that are
            not real.
        InputError: for an attribute that all data have, or none; and a model that cannot be run without data.

    Source: Hou et al. 2016, arXiv:1610.00291.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 1, 8, 8) > 0.5, "y": torch.arange(20) % 2})
        >>> len(pyro_vae.plots.attribute_arithmetic(model, guide, split).axes)
        1
    """
    check_drawable(split.shape, pictures)
    found = vectors_of(model, guide, split, labels, max_data, seed)
    one = split.batch(slice(datum, datum + 1))
    start = mean_path(model, guide, one, seed=seed)
    names = next(iter(found.values())).names[:MAX_ROWS]
    alpha = torch.tensor(list(alphas))
    path = {}
    for site, (_, vectors) in found.items():
        moves = vectors[:MAX_ROWS, None] * alpha.reshape(-1, *(1,) * (vectors.dim() - 1))  # (rows, alphas, *event)
        path[site] = start[site][:, None] + moves
    x = pick(split, MAX_ROWS, seed)[X]
    context = {k: v.expand(len(names), *v.shape[1:]) for k, v in one.items()} | {X: x}
    decoded = decode_path(model, path, seed=seed, batch=context)  # (rows, alphas, *event)
    view = View(split.shape, context, pictures)
    rows, columns = [str(name) for name in names], [f"{a:+g}" if a else "0" for a in alphas]
    title = f"{split.name}: {kind(decoded)} of p(x | z + α v), z of datum {datum}"
    axis = f"attribute vector v ({labels})"
    return grid(view(decoded, 2), title, rows=rows, columns=columns, axis=axis, limits=view.limits)


def vectors_of(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, labels: str, max_data: int, seed: int
) -> Mapping[str, AttributeVectors]:
    """The attribute vectors of every real-valued site.

    Args:
        model, guide, split, labels, max_data, seed: as for :func:`attribute_arithmetic`.

    Raises:
        NotApplicable: if there are none.
    """
    batch = pick(split, max_data, seed)
    reason = "" if labels in batch else f"the data have no labels '{labels}'"
    if not reason and not _is_label(batch[labels]):
        reason = f"'{labels}' holds neither integer classes nor a matrix of 0s and 1s"
    names = [] if reason else free_sites(model, guide, split)
    if not names:
        raise NotApplicable(reason or NO_FREE_SITE)
    latents = mean_path(model, guide, batch, seed=seed, sites=names)
    return {name: attribute_vectors(latents[name], batch[labels].cpu()) for name in names}


def _is_label(y: Tensor) -> bool:
    if y.dim() == 1:
        return not y.is_floating_point() and y.dtype != torch.bool
    return y.dim() == 2 and bool(((y == 0) | (y == 1)).all())


MAX_NUMBERS = 12  # attributes up to which the numbers are written


@figure()
def attribute_correlation(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    labels: str = "y",
    max_data: int = 5000,
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """A heat map of the correlation of attribute vectors over the units of all real-valued latent sites.

    Args:
        model, guide: the programs.
        split: labelled data, of which ``max_data`` at even distances are used.
        labels: name of the labels in the split: integer classes ``(n,)`` or 0s and 1s ``(n, attributes)``.
        max_data: at most so many.
        seed: of draws.
        ax: where to draw; None: in a new figure.

    Returns:
        the figure.

    Raises:
        NotApplicable: for data without such labels, latents that are not real, or fewer than 3 units.
        InputError: for an attribute that all data have, or none.

    Source: Hou et al. 2016, arXiv:1610.00291.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=3, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 1, 8, 8) > 0.5, "y": torch.arange(20) % 2})
        >>> len(pyro_vae.plots.attribute_correlation(model, guide, split).axes)
        2
    """
    found = vectors_of(model, guide, split, labels, max_data, seed)
    vectors = torch.cat([v.flatten(1) if v.dim() > 1 else v[:, None] for _, v in found.values()], 1)
    if vectors.shape[1] < 3:
        raise NotApplicable(f"{vectors.shape[1]} latent units are fewer than 3")
    matrix = attributes.attribute_correlation(vectors)
    names = [str(name) for name in next(iter(found.values())).names]
    side = min(12.0, max(4.0, 0.45 * len(names)))
    figure, axes = canvas((side + 1.0, side), ax)
    image = axes.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    if len(names) <= MAX_NUMBERS:
        for i, row in enumerate(matrix.tolist()):
            for j, value in enumerate(row):
                colour = "white" if abs(value) > 0.6 else "black"
                text = f"{round(value, 1) + 0.0:.1f}"  # + 0.0: no -0.0
                axes.text(j, i, text, ha="center", va="center", fontsize="x-small", color=colour)
    sites = ", ".join(found) if len(found) <= 4 else f"{len(found)} latent sites"
    axes.set(xlabel=f"attribute ({labels})", ylabel=f"attribute ({labels})")
    axes.set_title(f"{split.name}: correlation of attribute\nvectors over the {vectors.shape[1]} units of {sites}")
    figure.colorbar(image, ax=axes, label="correlation", shrink=0.8)
    return figure
