"""Figures: how far bounds of log p(x) lie apart, and which data are least likely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from matplotlib.axes import Axes

from pyro_vae.data import Pictures, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation.annealing.results import LikelihoodGap
from pyro_vae.evaluation.generate import reconstruct
from pyro_vae.evaluation.importance import log_likelihood
from pyro_vae.evaluation.results import LogLikelihood, mean_and_error, what_is_bounded
from pyro_vae.plots.drawing import Figure, canvas
from pyro_vae.plots.gaps import with_gaps
from pyro_vae.plots.images import grid, picked
from pyro_vae.plots.registry import NotApplicable, check_drawable, figure
from pyro_vae.plots.view import View
from pyro_vae.programs.session import anything_to_draw, evaluating


def likelihood_gap(gap: LikelihoodGap, ax: Axes | None = None) -> Figure:
    """Importance-weighted bounds by K, below log p(x) as annealing has it, and the ELBO's gap in its two parts.

    Args:
        gap: as from :func:`pyro_vae.evaluation.likelihood_gap`.
        ax: where to draw; None: in a new figure.

    Returns:
        the figure; error bars are one standard error of the paired differences.
    """
    figure, axes = canvas((7.2, 4.2), ax)
    ks = list(gap.importance)
    rows = [gap.missing(bound.per_datum) for bound in gap.importance.values()]
    axes.errorbar(ks, [-m for m, _ in rows], [e for _, e in rows], fmt="o-", capsize=3, label="K importance samples")
    elbo, refined = -gap.missing(gap.elbo.amortized)[0], -gap.missing(gap.elbo.refined)[0]
    axes.axhline(0, color="0.2", lw=1.2)
    spans = {"approximation": (refined, 0.0, "C1"), "amortization": (elbo, refined, "C3")}
    for name, (low, high, colour) in spans.items():
        value, spread = getattr(gap, name)
        text = f"{name} gap of the ELBO: {value:.2f} ± {spread:.2f}"
        axes.axhspan(low, high, color=colour, alpha=0.18, lw=0, label=text)
    settings, (mean, error) = gap.annealed.settings, mean_and_error(gap.annealed.per_datum)
    axes.set_xscale("log")
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_xlabel("K")
    what = what_is_bounded(gap.annealed.to_dict())
    axes.set_ylabel(f"bound - {what}, nats")
    lowest = min(elbo, *(-m - e for m, e in rows))
    axes.set_ylim(1.08 * lowest, -0.08 * lowest)
    chains = f"{settings.num_chains} chains, {settings.num_temperatures} temperatures"
    text = f"{what} = {mean:.2f} ± {error:.2f} nats by annealing ({chains})"
    axes.set_title(f"{gap.annealed.split}, {len(gap.annealed.per_datum)} data\n{text}", fontsize="medium")
    axes.legend(loc="lower right")
    return figure


NUM_MEASURED, NUM_PARTICLES = 100, 200  # where nothing was measured before


@figure(
    section="Likelihood",
    caption="Of 100 data, those whose weights (200 particles) have the largest Pareto k-hat.",
    pictures=True,
)
def worst_data(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    measured: LogLikelihood | None = None,
    n: int = 8,
    seed: int = 0,
    pictures: Pictures | None = None,
) -> Figure:
    """Two rows: the data with the largest k-hat, and below each the mean of p(x | z) for one z ~ q(z | x).

    Above each column: k-hat (:func:`~pyro_vae.evaluation.importance.pareto_k`), the effective sample size, the bound.

    Args:
        model, guide: the programs.
        split: the data.
        measured: what :func:`~pyro_vae.evaluation.log_likelihood` said of this split; if None, 100 data at even
            distances are measured with 200 particles each.
        n: columns.
        seed: of the draws.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: if the data are neither images nor vectors, or no datum has a k-hat.
        InputError: if ``measured`` is of another number of data.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 1, 8, 8) > 0.5})
        >>> len(pyro_vae.plots.worst_data(model, guide, split, n=4).axes)
        1
    """
    check_drawable(split.shape, pictures)
    if measured is None:
        split = picked(split, NUM_MEASURED, seed)
        measured = _measured(model, guide, split, seed)
    elif len(measured.per_datum) != len(split):
        raise InputError(f"measured has {len(measured.per_datum)} data, but the split has {len(split)}")
    if measured is None or measured.pareto_k.isnan().all():
        raise NotApplicable("no datum has a Pareto k-hat (few particles, or equal weights)")
    worst = measured.pareto_k.nan_to_num(nan=-torch.inf).argsort(descending=True)
    worst = worst[: min(n, int((~measured.pareto_k.isnan()).sum()))]
    batch = split.fixed(worst.to(split.device)).batch(slice(None))
    view, mean = View(split.shape, batch, pictures), reconstruct(model, guide, batch, seed=seed)
    values = torch.stack([view(with_gaps(model, guide, batch)), view(mean)])  # (2, columns, *shape)
    size, k = measured.effective_sample_size, measured.pareto_k
    columns = [f"k {k[i]:.2f}\nESS {size[i]:.0f}\n{measured.per_datum[i]:.1f}" for i in worst.tolist()]
    what = what_is_bounded(measured.to_dict())
    title = (
        f"{split.name}: the worst of {len(split)} data by Pareto k-hat (k), with the effective\n"
        f"sample size of {measured.num_particles} particles and the bound on {what} in nats"
    )
    return grid(values, title, rows=["data", "reconstruction"], columns=columns, limits=view.limits)


def _measured(model: Callable[..., Any], guide: Callable[..., Any], split: Split, seed: int) -> LogLikelihood | None:
    """Bounds from few particles; None where all particles would be the same."""
    with evaluating(model, guide, split, seed) as programs:
        if not anything_to_draw(*programs):
            return None
    return log_likelihood(model, guide, split, num_particles=NUM_PARTICLES, vectorize=False, seed=seed, compile="off")
