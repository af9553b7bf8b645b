"""Figures: discrete latents that are summed over, by the data of each value, and by one datum at all values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure

from pyro_vae.data import Pictures, Split
from pyro_vae.evaluation.analogy import analogies as changed
from pyro_vae.evaluation.discrete import labels_hidden, posterior_probabilities
from pyro_vae.evaluation.encoding import UNOBSERVED
from pyro_vae.plots.images import grid, is_image, kind, pick, picked
from pyro_vae.plots.registry import NotApplicable, check_drawable, figure
from pyro_vae.plots.view import View
from pyro_vae.programs.context import X

MOST = 20  # values that are drawn
NUM_DATA = 1000  # of which the most probable value is looked at


@figure(
    section="Latents",
    caption="For every value of a discrete latent, the data of which it is the most probable one, surest first.",
    order=2,
    pictures=True,
)
def clusters(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    columns: int = 12,
    seed: int = 0,
    pictures: Pictures | None = None,
) -> Figure:
    """A row for every value c of a discrete latent: data with c = argmax p(c | x), by falling p(c | x).

    Labels that a model can be without are not shown to it. Of the first latent with one value a datum.

    Args:
        model, guide: the programs.
        split: the data, of which 1000 at even distances are looked at.
        columns: data in a row.
        seed: of all draws.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: if no latent with one value a datum is summed over, it has more than 20 values, or the data are
            neither images nor vectors.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.GaussianMixtureVAE((1, 8, 8), num_components=3, latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 1, 8, 8) > 0.5})
        >>> [label.get_text()[:5] for label in pyro_vae.plots.clusters(model, guide, split).axes[0].get_yticklabels()]
        ['c = 0', 'c = 1', 'c = 2']
    """
    check_drawable(split.shape, pictures)
    some = labels_hidden(model, picked(split, NUM_DATA, seed))
    found = {n: p for n, p in posterior_probabilities(model, guide, some, seed=seed).items() if p.dim() == 2}
    if not found:
        raise NotApplicable("no discrete latent has one value a datum")
    name, p = next(iter(found.items()))  # (N, values)
    name = name.removesuffix(UNOBSERVED)
    _check_values(name, p.shape[1])
    batch = some.batch(slice(None))
    view = View(split.shape, batch, pictures)
    x = view(batch[X])  # (N, *shape)
    blank = view.limits[1] if is_image(tuple(x.shape[1:])) else torch.nan
    cells = torch.full((p.shape[1], columns, *x.shape[1:]), blank)
    best, which = p.max(1)
    rows = []
    for value, row in enumerate(cells):
        members = torch.where(which == value)[0]
        surest = members[best[members].argsort(descending=True)][:columns]
        row[: len(surest)] = x[surest].to(row.dtype)
        rows.append(f"{name} = {value}: {len(members) / len(x):.0%}")
    return grid(cells, f"{split.name}: data by their most probable {name}, surest first", rows, limits=view.limits)


@figure(
    section="Samples",
    caption="Data, and what the model makes of them at every value of a discrete latent, the other latents kept.",
    order=3,
    pictures=True,
)
def analogies(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    n: int = 8,
    seed: int = 0,
    pictures: Pictures | None = None,
) -> Figure:
    """A row for a datum, a column for every value of a discrete latent: the mean of p(x | the value, other latents).

    :func:`pyro_vae.evaluation.analogies` says which latents are kept; if none is, the rows are draws of the model.

    Args:
        model, guide: the programs.
        split: the data, of which n at even distances are drawn.
        n: rows.
        seed: of all draws.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: as :func:`clusters`.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.SemiSupervisedVAE((1, 8, 8), num_classes=3, latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.SemiSupervisedGuide(model, hidden_dims=(16,))
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 1, 8, 8) > 0.5})
        >>> [label.get_text() for label in pyro_vae.plots.analogies(model, guide, split).axes[0].get_xticklabels()]
        ['data', 'y = 0', 'y = 1', 'y = 2']
    """
    check_drawable(split.shape, pictures)
    batch = pick(split, n, seed)
    found = changed(model, guide, batch, seed=seed)
    _check_values(found.site, len(found.values))
    view = View(split.shape, batch, pictures)
    mean = view(found.mean, 2)  # (n, values, *shape)
    columns = [f"{found.site} = {value}" for value in range(len(found.values))]
    what = f"{kind(found.mean)} of p(x | {found.site}, …)"
    if not found.kept:
        title = f"{what[0].upper()}{what[1:]} at all values of {found.site}; a row: one noise"
        return grid(mean, title, columns=columns, limits=view.limits)
    cells = torch.cat([view(batch[X])[:, None].to(mean.dtype), mean], 1)
    title = f"{split.name}: {what} at all values of {found.site}; {', '.join(found.kept)} of the data"
    return grid(cells, title, columns=["data", *columns], limits=view.limits)


def _check_values(name: str, count: int) -> None:
    if count > MOST:
        raise NotApplicable(f"{name} has {count} values, more than {MOST} that could be told apart")
