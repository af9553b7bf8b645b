"""Figure: reconstructions from the first latents of a hierarchy alone, then from more and more of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure

from pyro_vae.data import Pictures, Split
from pyro_vae.evaluation.hierarchy import Level, average_values, levels_of, reconstruct_by_level
from pyro_vae.plots.images import grid, kind, pick, picked
from pyro_vae.plots.registry import NotApplicable, check_drawable, figure
from pyro_vae.plots.view import View
from pyro_vae.programs.context import X

MAX_LEVELS = 6  # columns beside the data; of deeper hierarchies some levels are shown
NUM_AVERAGE = 500  # data of which the average stands for what is left out


@figure(
    section="Reconstructions", caption="Reconstructions from the upper levels of latents alone.", order=1, pictures=True
)
def reconstructions_by_level(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    n: int = 8,
    seed: int = 0,
    pictures: Pictures | None = None,
) -> Figure:
    """Columns: data | from the first level only | from the first two | … | from all; a row for each datum.

    What is said of the data is drawn from the guide. Levels of codes that are left out have their vectors at the mean
    over data; other levels that are left out are drawn from the model, given those above.

    Args:
        model, guide: the programs.
        split: the data, of which n at even distances are drawn.
        n: rows.
        seed: of the draws.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: if the model has fewer than two levels, or the data are neither images nor vectors.
        InputError: for a model that cannot be run without data.

    Source: Razavi et al. 2019, arXiv:1906.00446, figure 3.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.HierarchicalVAE((1, 8, 8), latent_dims=(4, 2), hidden_dims=(16, 8))
        >>> guide = pyro_vae.guides.HierarchicalGuide(model, hidden_dims=(16, 8))
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 1, 8, 8) > 0.5})
        >>> len(pyro_vae.plots.reconstructions_by_level(model, guide, split, n=4).axes)
        1
    """
    check_drawable(split.shape, pictures)
    every = levels_of(model, guide, split)
    if len(every) < 2:
        raise NotApplicable(f"the model has {'only one level of' if every else 'no'} latents")
    left_out = [level for level in every[1:] if level.can_be_left_out]
    some = picked(split, NUM_AVERAGE, seed)
    average = average_values(model, guide, some, left_out, seed=seed) if left_out else {}
    batch = pick(split, n, seed)
    counts = _spread(len(every))
    means = reconstruct_by_level(model, guide, batch, every, average, counts=counts, seed=seed)
    view = View(split.shape, batch, pictures)
    values = torch.stack([view(values) for values in (batch[X], *means)], 1)  # (n, 1 + levels, *shape)
    columns = ["data", *(_said(every, count) for count in counts)]
    title = f"{split.name}: {kind(means[0])} of p(x | z) from the upper levels;\n{_what_is_left_out(every, left_out)}"
    return grid(values, title, columns=columns, limits=view.limits)


def _spread(count: int) -> list[int]:
    """From how many levels: 1, 2, ..., all; of many, some at even distances with 1 and all."""
    if count <= MAX_LEVELS:
        return list(range(1, count + 1))
    return [1 + round(i * (count - 1) / (MAX_LEVELS - 1)) for i in range(MAX_LEVELS)]


def _said(every: list[Level], count: int) -> str:
    if count == len(every):
        return "all"
    return f"{every[0].name}\nonly" if count == 1 else f"down to\n{every[count - 1].name}"


def _what_is_left_out(every: list[Level], at_mean: list[Level]) -> str:
    drawn = len(every) - 1 - len(at_mean)
    parts = ["vectors of codes at the mean over data"] * bool(at_mean) + ["drawn from the model"] * bool(drawn)
    return f"levels left out: {', others '.join(parts)}"
