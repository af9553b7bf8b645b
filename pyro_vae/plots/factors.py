"""Figure: what each latent unit knows of each known factor of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation.factor_scores import mutual_information
from pyro_vae.evaluation.factors import classes_of, factor_entries, latent_units
from pyro_vae.plots.drawing import Figure, canvas
from pyro_vae.plots.images import evenly
from pyro_vae.plots.registry import figure

MAX_DATA = 5_000
MAX_UNITS = 20  # that are drawn: those that know most
MAX_NUMBERS = 12  # factors up to which the numbers are written


@figure(
    section="Latents",
    caption="Mutual information of latent units and known factors of the data, as a share of the factor's entropy.",
    order=5,
)
def factor_information(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    factors: Sequence[str] | None = None,
    sites: Sequence[str] | None = None,
    max_data: int = MAX_DATA,
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """A heat map of I(unit; factor) / H(factor), units of posterior means in 20 bins: a row a unit, a column a factor.

    Of many units those are drawn whose greatest number is largest, in their order.

    Args:
        model, guide: the programs.
        split: data with factors, of which ``max_data`` at even distances are used.
        factors, sites: as for :func:`~pyro_vae.evaluation.disentanglement`.
        max_data: at most so many.
        seed: of draws.
        ax: where to draw; None: in a new figure.

    Returns:
        the figure.

    Raises:
        NotApplicable: for data without factors, and latents that are not real or more than 500.
        InputError: as :func:`~pyro_vae.evaluation.disentanglement`.

    Source: Chen et al. 2018, arXiv:1802.04942.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=3, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x, v = torch.rand(40, 1, 8, 8) > 0.5, torch.arange(40)
        >>> split = pyro_vae.data.Split({"x": x, "factor.row": v % 4, "factor.side": v % 3})
        >>> len(pyro_vae.plots.factor_information(model, guide, split).axes)
        2
    """
    names = factor_entries(split, factors)
    some = split.fixed(evenly(len(split), max_data).to(split.device))
    units = latent_units(model, guide, some, sites, seed)
    classes = classes_of(some, names)
    information, entropy = mutual_information(torch.stack(list(units.values()), 1), torch.stack([*classes.values()], 1))
    for name, nats in zip(classes, entropy.tolist(), strict=True):
        if nats == 0:
            raise InputError(f"factor '{name}' has fewer than two classes in the {len(some)} data: leave it out")
    share = information / entropy
    shown = share.amax(1).topk(min(MAX_UNITS, len(share))).indices.sort().values
    rows, matrix = [list(units)[i] for i in shown.tolist()], share[shown]
    columns = list(classes)
    figure, axes = canvas((max(5.0, 0.9 * len(columns) + 2.2), max(2.6, 0.34 * len(rows) + 1.4)), ax)
    image = axes.imshow(matrix.numpy(), cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=0 if len(columns) <= MAX_NUMBERS else 90)
    axes.set_yticks(range(len(rows)), rows)
    if len(columns) <= MAX_NUMBERS:
        for i, row in enumerate(matrix.tolist()):
            for j, value in enumerate(row):
                colour = "black" if value > 0.6 else "white"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize="x-small", color=colour)
    some_of = f", the {len(rows)} of {len(units)} that know most" if len(rows) < len(units) else ""
    axes.set(xlabel="factor", ylabel="latent unit")
    axes.set_title(f"{split.name}: what posterior means know of\nfactors, of {len(some)} data{some_of}")
    figure.colorbar(image, ax=axes, label="I(unit; factor) / H(factor)")
    return figure
