"""What bounds lack of log p(x)."""

from __future__ import annotations

from matplotlib.figure import Figure

from pyro_vae.evaluation.gap import LikelihoodGap
from pyro_vae.evaluation.results import mean_and_error


def likelihood_gap(gap: LikelihoodGap) -> Figure:
    """Importance-weighted bounds by K, below log p(x) as annealing has it, and the ELBO's gap in its two parts.

    Args:
        gap: as from :func:`pyro_vae.evaluation.likelihood_gap`.

    Returns:
        the figure; error bars are one standard error of the paired differences.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    ks = list(gap.importance)
    rows = [gap.missing(bound.per_datum) for bound in gap.importance.values()]
    axes.errorbar(ks, [-m for m, _ in rows], [e for _, e in rows], fmt="o-", capsize=3, label="K importance samples")
    elbo, refined = -gap.missing(gap.elbo.amortized)[0], -gap.missing(gap.elbo.refined)[0]
    axes.axhline(0, color="0.2", lw=1.2)
    spans = {"approximation": (refined, 0.0, "C1"), "amortization": (elbo, refined, "C3")}
    for name, (low, high, colour) in spans.items():
        value, spread = getattr(gap, name)
        told = f"{name} gap of the ELBO: {value:.2f} ± {spread:.2f}"
        axes.axhspan(low, high, color=colour, alpha=0.18, lw=0, label=told)
    settings, (mean, error) = gap.annealed.settings, mean_and_error(gap.annealed.per_datum)
    axes.set_xscale("log")
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_xlabel("K")
    axes.set_ylabel("bound - log p(x), nats")
    lowest = min(elbo, *(-m - e for m, e in rows))
    axes.set_ylim(1.08 * lowest, -0.08 * lowest)
    chains = f"{settings.num_chains} chains, {settings.num_temperatures} temperatures"
    told = f"log p(x) = {mean:.2f} ± {error:.2f} nats by annealing ({chains})"
    axes.set_title(f"{gap.annealed.split}, {len(gap.annealed.per_datum)} data\n{told}", fontsize="medium")
    axes.legend(loc="lower right")
    return figure
