"""The aggregated posterior q(z) against the prior p(z): how far apart their draws are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.data import DataLike, Split
from pyro_vae.errors import InputError, NotApplicable, positive
from pyro_vae.evaluation.chunks import MEMORY_BUDGET
from pyro_vae.evaluation.encoding import NO_FREE_SITE, free_sites, posterior_samples
from pyro_vae.evaluation.generate import draw
from pyro_vae.evaluation.results import Result, metric
from pyro_vae.objectives.mmd import Kernel, inverse_multiquadratic, squared_distances
from pyro_vae.programs.context import X, needed_to_generate
from pyro_vae.programs.program import as_programs, prime
from pyro_vae.programs.session import as_split, in_evaluation
from pyro_vae.programs.sites import kept
from pyro_vae.programs.traces import data_plates, shared_sites

MOST = 2000  # data of the metric: the time grows as their square
FEWEST = 4  # data, that the variance of the estimate can be had
NORMAL = 1.959964  # 97.5 % of a normal
BYTES = 8 * 8  # of a pair of draws: distances and kernels, float64


@dataclass
class Discrepancy:
    """Draws of q(z) of the data against as many of p(z).

    Attributes:
        mmd: squared maximum mean discrepancy, an unbiased estimate, which may be negative.
        standard_error: of it, from the variance of a U-statistic.
        variance: of the prior's draws, a mean over coordinates, by which the kernel is scaled.
        mean, scale: of q(z) by coordinate, ``(*event)`` float64; of several sites together none.
        prior_mean, prior_scale: of p(z).
    """

    mmd: float
    standard_error: float
    variance: float
    mean: Tensor | None = None
    scale: Tensor | None = None
    prior_mean: Tensor | None = None
    prior_scale: Tensor | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of a normal: estimate -+ 1.96 standard errors."""
        return self.mmd - NORMAL * self.standard_error, self.mmd + NORMAL * self.standard_error

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain values."""
        moments = {
            name: getattr(self, name).tolist()
            for name in ("mean", "scale", "prior_mean", "prior_scale")
            if getattr(self, name) is not None
        }
        return {
            "mmd_squared": self.mmd,
            "standard_error": self.standard_error,
            "interval": list(self.interval),
            "kernel_variance": self.variance,
            **moments,
        }


@dataclass
class AggregatedPosterior(Result):
    """How far the aggregated posterior of data is from the prior, by site.

    Attributes:
        sites: by name, in the model's order.
        together: all of them, as one vector; None if there is one site only.
        num_data: draws of each.
        without: latent sites that are left out, and why.
        split: the name of the data.
    """

    sites: dict[str, Discrepancy]
    together: Discrepancy | None
    num_data: int
    without: dict[str, str] = field(default_factory=dict)
    split: str = "data"

    @property
    def rows(self) -> dict[str, str]:
        """MMD squared with its interval, and the moments of q(z) beside the prior's, by site."""
        found = {}
        for name, site in self.sites.items():
            found[f"MMD² of q({name}) and p({name})"] = _in_words(site)
            shift, ratio = self._extremes(site)
            found[f"moments of q({name})"] = (
                f"means up to {shift:.2f} prior deviations away; deviations {ratio[0]:.2f} to {ratio[1]:.2f} of the "
                "prior's"
            )
        if self.together is not None:
            found[f"MMD² of q and p of {', '.join(self.sites)} together"] = _in_words(self.together)
        if self.without:
            found["left out of MMD²"] = "; ".join(f"{name}: {why}" for name, why in self.without.items())
        return found

    @staticmethod
    def _extremes(site: Discrepancy) -> tuple[float, tuple[float, float]]:
        assert site.mean is not None and site.scale is not None
        assert site.prior_mean is not None and site.prior_scale is not None
        tiny = torch.finfo(torch.float64).tiny
        unit = site.prior_scale.clamp(min=tiny)
        ratio = site.scale / unit
        return ((site.mean - site.prior_mean).abs() / unit).max().item(), (ratio.min().item(), ratio.max().item())

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values."""
        return {
            "sites": {name: site.to_dict() for name, site in self.sites.items()},
            "together": None if self.together is None else self.together.to_dict(),
            "kernel": "inverse multiquadratic, C = 2 dim variance {0.1, 0.2, 0.5, 1, 2, 5, 10}, a sum",
            "num_data": self.num_data,
            "without": self.without,
            "split": self.split,
        }


def _in_words(site: Discrepancy) -> str:
    digits = 2 - math.floor(math.log10(site.standard_error)) if 0 < site.standard_error < math.inf else 4
    low, high = site.interval
    return f"{site.mmd:.{digits}f} +- {site.standard_error:.{digits}f} (95 %: {low:.{digits}f} to {high:.{digits}f})"


def aggregated_posterior(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    memory_budget: int = MEMORY_BUDGET,
    seed: int = 0,
) -> AggregatedPosterior:
    r"""Distance of q(z) = E_x[q(z | x)], one draw a datum, from p(z), as many draws of the model by itself.

    .. math:: MMD^2 = E\,k(z, z') + E\,k(\tilde z, \tilde z') - 2 E\,k(z, \tilde z), \qquad
        k(a, b) = \sum_s \frac{C_s}{C_s + |a - b|^2}, \quad C_s = 2\,d\,\sigma^2 s

    with s in {.1, .2, .5, 1, 2, 5, 10} and :math:`\sigma^2` the mean variance of the prior's draws. It is 0 if the two
    are one distribution, and at most 14. Of a site that depends on others, both are marginal, p(z1) by ancestral draws;
    all sites together are compared as well. A model with context is given that of the data in both.

    The estimate is the U-statistic over pairs of rows (z_i, z~_i), unbiased, and its standard error is the square root
    of the estimated variance of a U-statistic, both of its terms, of order 1/n and 1/n^2: so that it holds also where
    q(z) is p(z) and the first one is 0. There, the estimate is not normal, and the interval rough.

    Args:
        model, guide: the programs.
        data: held-out data; of :class:`~pyro_vae.data.Data` the test part. The time grows as the square of their
            number.
        memory_budget: bytes that the kernels computed at once may take.
        seed: of the draws; the global random state is left as it was.

    Returns:
        MMD squared by site and of all together, and the moments of q(z) and p(z) by coordinate. It looks at draws
        alone: whether the guide's scales are tiny does not matter.

    Raises:
        NotApplicable: for fewer than 4 data, and where there is no real latent per datum, without masks, whose model
            can be run without data.

    Source: Tolstikhin et al. 2018, arXiv:1711.01558 (the kernel); Gretton et al. 2012, A kernel two-sample test;
        Hoeffding 1948, doi:10.1214/aoms/1177730196 (the variance).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(200, 1, 8, 8) > 0.5).float()
        >>> found = pyro_vae.evaluation.aggregated_posterior(model, guide, x)
        >>> found.sites["z"].mean.shape, found.sites["z"].mmd < 14
        (torch.Size([2]), True)
    """
    positive("memory_budget", memory_budget)
    split = as_split(data, model, guide)
    if len(split) < FEWEST:
        raise NotApplicable(f"{len(split)} data are too few to tell q(z) from p(z): {FEWEST} at least")
    names, without = _comparable(model, guide, split)
    q, p = draws_of_both(model, guide, split, names, seed)
    sites = {}
    for name in names:
        ours, theirs = (values[name].double() for values in (q, p))
        found = _compared(*(values.reshape(len(values), -1) for values in (ours, theirs)), memory_budget)
        found.mean, found.scale, found.prior_mean, found.prior_scale = (
            ours.mean(0),
            ours.std(0),
            theirs.mean(0),
            theirs.std(0),
        )
        sites[name] = found
    together = None
    if len(names) > 1:
        joined = (torch.cat([v[name].double().reshape(len(split), -1) for name in names], 1) for v in (q, p))
        together = _compared(*joined, memory_budget)
    return AggregatedPosterior(sites, together, len(split), without, split.name)


@metric
def posterior_against_prior(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, memory_budget: int, seed: int
) -> AggregatedPosterior:
    """:func:`aggregated_posterior` of the first 2000 data."""
    some = split.subset(MOST)
    return aggregated_posterior(model, guide, some, memory_budget=memory_budget, seed=seed)


def draws_of_both(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, names: list[str], seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One draw of q(z | x) of each datum, and as many of p(z), given the data's context; ``(num_data, *event)`` each.

    Raises:
        NotApplicable: for a model that cannot be run without data.
    """
    q = posterior_samples(model, guide, split, seed=seed, sites=names)
    batch = split.batch(slice(None))
    needed = {name: batch[name] for name in (X, *needed_to_generate(model, batch)) if name in batch}
    try:
        p = draw(model, len(split), seed=(seed + 1) % 2**64, batch=needed).values  # other noise than q's
    except InputError as error:
        raise NotApplicable(f"the prior cannot be drawn from: {error}") from error
    return q, p


def _comparable(model: Callable[..., Any], guide: Callable[..., Any], split: Split) -> tuple[list[str], dict[str, str]]:
    """The sites that have draws in both, and why other real ones have none."""
    programs = as_programs(model, guide)
    free = free_sites(model, guide, split)
    with in_evaluation(programs, split.batch(slice(0, 2)), seed=0) as batch:
        ours, theirs = (prune_subsample_sites(trace.copy()) for trace in prime(*programs, batch))
        shared = shared_sites(ours, theirs, data_plates(ours))
    if shared:
        raise NotApplicable(f"all data share {', '.join(shared)}, so that draws for the data are not independent")
    masked = [name for name in free if kept(ours.nodes[name]) is not None or kept(theirs.nodes[name]) is not None]
    names = [name for name in free if name not in masked]
    if not names:
        raise NotApplicable(NO_FREE_SITE if not masked else f"of {', '.join(masked)} parts are masked")
    return names, dict.fromkeys(masked, "parts of it are masked")


def _compared(q: Tensor, p: Tensor, memory_budget: int) -> Discrepancy:
    variance = p.var(0).mean().item()
    if not variance > 0:
        raise NotApplicable("all draws of the prior are one point")
    kernel = inverse_multiquadratic(p.shape[1], variance)
    mmd, error = mmd_with_error(q, p, kernel, rows=max(1, memory_budget // (BYTES * len(q))))
    return Discrepancy(mmd, error, variance)


def mmd_with_error(a: Tensor, b: Tensor, kernel: Kernel, rows: int) -> tuple[float, float]:
    r"""MMD squared of two samples of one size, with its standard error: a U-statistic over pairs of rows.

    .. math:: U = \frac{1}{n(n-1)} \sum_{i \ne j} h_{ij}, \qquad
        h_{ij} = k(a_i, a_j) + k(b_i, b_j) - k(a_i, b_j) - k(a_j, b_i)

    .. math:: Var(U) = \frac{4(n-2)}{n(n-1)} Cov(h_{12}, h_{13}) + \frac{2}{n(n-1)} Var(h_{12})

    of which all means over different rows are taken without bias, and what comes out negative counts as 0. Rows are
    independent; a_i and b_i need not be.

    Args:
        a, b: ``(n, dim)`` float64, n at least 4.
        kernel: k, of squared distances.
        rows: computed at once.

    Returns:
        the estimate and its standard error.
    """
    n, total, of_rows, of_squares = len(a), 0.0, 0.0, 0.0
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        h = kernel(squared_distances(a[part], a)) + kernel(squared_distances(b[part], b))
        h -= kernel(squared_distances(a[part], b)) + kernel(squared_distances(b[part], a))
        h[torch.arange(len(h)), torch.arange(start, start + len(h))] = 0.0
        sums = h.sum(1)
        total += sums.sum().item()
        of_rows += sums.square().sum().item()
        of_squares += h.square().sum().item()
    pairs, triples = n * (n - 1), n * (n - 1) * (n - 2)
    apart = total**2 - 4 * (of_rows - of_squares) - 2 * of_squares  # the sum of h_ij h_kl of four different rows
    square_of_mean = apart / (triples * (n - 3))
    first = max((of_rows - of_squares) / triples - square_of_mean, 0.0)
    second = max(of_squares / pairs - square_of_mean, 0.0)
    return total / pairs, math.sqrt((4 * (n - 2) * first + 2 * second) / pairs)
