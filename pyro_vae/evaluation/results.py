"""What evaluation returns: per-datum tensors with their means, errors, units and diagnostics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.evaluation.chunks import Chunks, Piece
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.sites import Site, is_discrete, is_factor, kept
from pyro_vae.programs.traces import TracePair, log_prob
from pyro_vae.runtime import private_seed

UNRELIABLE = 0.7  # k-hat above this: not even a smoothed estimate is to be trusted
FEWEST = 5  # weights that a tail is fitted to, at least
ROUNDING = 1e-4  # nats: weights closer than this are equal, but for the arithmetic of their log-densities
ELEMENTS = 1 << 18  # numbers of a fit's tensors at once


def tail_length(num_particles: int) -> int:
    r"""M: how many of K weights are the tail, :math:`\lceil \min(K / 5, 3 \sqrt K) \rceil`.

    Source: Vehtari et al. 2024, arXiv:1507.02646.
    """
    return math.ceil(min(num_particles / 5, 3 * math.sqrt(num_particles)))


def largest(log_weights: Tensor, num_particles: int, known: Tensor | None = None) -> Tensor:
    """The M + 1 largest log-weights of each datum, brought up to date with a chunk: all that k-hat needs.

    Args:
        log_weights: a chunk, ``(k, N)``.
        num_particles: K, of all chunks together.
        known: what this gave for the chunks before.

    Returns:
        ``(at most M + 1, N)``, the largest first.
    """
    every = log_weights if known is None else torch.cat([known, log_weights])
    return every.topk(min(tail_length(num_particles) + 1, len(every)), 0).values


def pareto_k(log_weights: Tensor) -> Tensor:
    """k-hat of each datum's weights, ``(N,)`` float64, from all of them, ``(K, N)``; see :func:`pareto_k_of_tail`."""
    return pareto_k_of_tail(largest(log_weights.double(), len(log_weights)))


def pareto_k_of_tail(log_weights: Tensor) -> Tensor:
    r"""Shape k of the generalized Pareto distribution that fits the M largest weights' excesses over the next one.

    .. math:: p(e) = \frac1\sigma \Big(1 + k \frac e\sigma\Big)^{-1/k-1}, \qquad e_i = w_i - w_{M+1}

    Moments of the weights from 1/k on are infinite: k < 1/2 means that they have a variance. Above 0.7 the number of
    particles that an estimate needs is out of reach. The fit is the posterior mean of Zhang and Stephens under their
    empirical prior, drawn towards 1/2 as if by ten further weights: :math:`\hat k = (M k + 5) / (M + 10)`.

    Args:
        log_weights: the M + 1 largest of each datum, ``(M + 1, N)``, nats, the largest first.

    Returns:
        ``(N,)`` float64. NaN where there is no tail to fit: fewer than five weights exceed the smallest one (too few
        particles, or most weights are equal), the weights are all equal to within rounding (1e-4 nats; as where the
        guide is the posterior), or they are not numbers.

    Source: Zhang & Stephens 2009, doi:10.1198/tech.2009.08017; Vehtari et al. 2024, arXiv:1507.02646, section 3.
    """
    log_weights = log_weights.double()
    relative = log_weights - log_weights[:1]  # (M + 1, N), the largest 0; NaN if it is infinite
    cutoff = relative[-1]
    excess = (relative.exp() - cutoff.exp())[:-1].flip(0)  # (M, N), ascending
    excess = torch.where(cutoff < -ROUNDING, excess, 0.0)  # also where it is NaN
    if len(excess) < FEWEST:
        return torch.full_like(cutoff, torch.nan)
    rows = max(1, ELEMENTS // (len(excess) * _grid_size(len(excess))))
    return torch.cat([_fit(part) for part in excess.T.split(rows)])


def _grid_size(m: int) -> int:
    return 30 + math.isqrt(m)


def _fit(excess: Tensor) -> Tensor:
    """k-hat ``(N,)`` of excesses ``(N, M)`` in ascending order; zeros (ties with the cutoff) are none of the tail."""
    m = excess.shape[1]
    count = (excess > 0).sum(1, keepdim=True)  # (N, 1): M, but for ties
    size = count.double().sqrt().floor() + 30  # (N, 1), points of the grid
    point = torch.arange(1, _grid_size(m) + 1, dtype=excess.dtype, device=excess.device)  # (J,)
    quarter = m - count + (count / 4 + 0.5).floor().long() - 1  # (N, 1), the place of the lowest quarter's end
    scale = excess.gather(1, quarter.clamp(0, m - 1))  # (N, 1)
    b = (1 - (size / (point - 0.5)).sqrt()) / (3 * scale) + 1 / excess[:, -1:]  # (N, J): values of -k / sigma
    k = (-b[..., None] * excess[:, None]).log1p().sum(2) / count  # (N, J): zeros add nothing
    profile = count * ((-b / k).log() - k - 1)  # (N, J), log-likelihood
    profile = profile.where((point <= size) & (b != 0), -torch.inf)
    b = b.where(point <= size, 0.0)
    best = (b * profile.softmax(1)).sum(1, keepdim=True)  # (N, 1), posterior mean
    k = (-best * excess).log1p().sum(1) / count[:, 0]
    k = (count[:, 0] * k + 5) / (count[:, 0] + 10)
    return k.where(count[:, 0] >= FEWEST, torch.nan)


@dataclass(frozen=True)
class DataSite:
    """One data site of a model.

    Attributes:
        dimensions: numbers of one datum that are counted, those that a mask leaves out not; a mean over the data.
        density: whether its likelihood is a density; False: a probability; None: it does not say.
        nats: mean log p of the site, where that depends on no latent (a text before all codes, say); else None.
    """

    dimensions: float
    density: bool | None
    nats: float | None = None


def measured_sites(pair: Pair, split: Split, memory_budget: int) -> dict[str, DataSite]:
    """The data sites of a pair by name, in the model's order; factors are none."""
    with private_seed(0, split.device):  # the draws of an estimate are not to depend on this
        return _found(pair, split, memory_budget)


def _found(pair: Pair, split: Split, memory_budget: int) -> dict[str, DataSite]:
    first = pair.traces(split.batch(slice(0, 1)))
    sites = {name: site for name, site in first.observed().items() if not is_factor(site)}
    kinds = {name: None if (d := is_discrete(site["fn"])) is None else not d for name, site in sites.items()}
    mixed = len(set(kinds.values())) > 1
    fixed = _without_latents(pair, split) if mixed else set()
    masked = any(kept(site) is not None for site in sites.values())
    if not masked and not fixed:
        return {name: DataSite(_whole(site, first), kinds[name]) for name, site in sites.items()}
    counted, nats = dict.fromkeys(sites, 0.0), dict.fromkeys(fixed, 0.0)

    def look(piece: Piece) -> None:
        traces = piece.traces
        for name in sites:
            counted[name] += _counted(traces.model.nodes[name], traces)
        for name in fixed:
            site = traces.model.nodes[name]
            nats[name] += traces.per_datum(log_prob(site, scaled=False), site).double().sum().item()

    Chunks(pair, split, 1, memory_budget).run(look)
    n = len(split)
    return {name: DataSite(counted[name] / n, kinds[name], nats[name] / n if name in fixed else None) for name in sites}


def _whole(site: Site, traces: TracePair) -> float:
    inner = [f.size for f in site["cond_indep_stack"] if f.vectorized and f.dim != -1]
    return float(math.prod((*site["fn"].event_shape, *inner)))


def _counted(site: Site, traces: TracePair) -> float:
    """Numbers of a batch that no mask leaves out."""
    mask = kept(site)
    return _whole(site, traces) * traces.size if mask is None else float(mask.double().sum())


def _without_latents(pair: Pair, split: Split) -> set[str]:
    """The data sites whose log-likelihood is the same for all particles."""
    traces = pair.traces(split.batch(slice(0, 2)), 3)
    values = {name: traces.per_datum(log_prob(site, scaled=False), site) for name, site in traces.observed().items()}
    return {name for name, value in values.items() if bool((value == value[:1]).all())}


NAMED = 5  # data that a sentence names, at most


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean of per-datum values and its standard error over data (nan for one datum)."""
    values = values.double()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item() + 0.0, error  # + 0.0: no -0.0


def not_finite(values: Tensor, what: str) -> list[str]:
    """A sentence if values of some data are infinite or not numbers: which data, and what the others' mean is."""
    bad = (~values.isfinite()).nonzero().flatten().tolist()
    if not bad:
        return []
    named = ", ".join(f"datum {i}: {values[i].item()}" for i in bad[:NAMED]) + (", …" if len(bad) > NAMED else "")
    others = values[values.isfinite()]
    left = f" (the mean over the other {len(others)}: {mean_and_error(others)[0]:.2f} nats)" if len(others) else ""
    return [
        f"the {what} of {len(bad)} of {len(values)} data is not finite ({named}), and so is the mean over all "
        f"{len(values)}{left}"
    ]


class PerDatum:
    """Values of each datum, ``per_datum`` (num_data,) in nats, with their mean."""

    per_datum: Tensor

    @property
    def mean(self) -> float:
        """Mean over data, nats."""
        return mean_and_error(self.per_datum)[0]

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over data, nats."""
        return mean_and_error(self.per_datum)[1]


class PerDimension(PerDatum):
    """Estimates of log p of data sites, ``sites`` by name, with what they are per dimension."""

    sites: Mapping[str, DataSite]

    @property
    def num_dimensions(self) -> float:
        """Values in one datum that bits per dimension are of, a mean over the data."""
        return sum(self.sites[name].dimensions for name in self._counted)

    @property
    def density(self) -> bool | None:
        """Whether any of what is measured is a density, whose nats depend on the data's units; None: not known."""
        kinds = {site.density for site in self.sites.values()}
        return True if True in kinds else None if None in kinds else False

    @property
    def bits_per_dim(self) -> float:
        """-log p / (dimensions * ln 2), of all data sites if all are densities or all are probabilities.

        A text beside an image is another matter than its pixels: where sites of the two kinds are there, bits are of
        the kind with more dimensions, given the others, whose nats are taken out (if they depend on no latents); else
        nan. :attr:`bits_of` says of what.
        """
        others = [self.sites[name].nats for name in self.sites if name not in self._counted]
        if not self.num_dimensions or None in others:
            return math.nan
        return -(self.mean - sum(others)) / (self.num_dimensions * math.log(2))

    @property
    def bits_of(self) -> str:
        """What bits per dimension are of: "x", "x given text"."""
        given = [name for name in self.sites if name not in self._counted]
        return ", ".join(self._counted) + (f" given {', '.join(given)}" if given else "")

    @property
    def _counted(self) -> list[str]:
        """The sites whose dimensions are counted together."""
        by_kind: dict[bool | None, list[str]] = {}
        for name, site in self.sites.items():
            by_kind.setdefault(site.density, []).append(name)
        return max(by_kind.values(), key=lambda names: sum(self.sites[n].dimensions for n in names), default=[])


@dataclass
class LogLikelihood(PerDimension):
    """Importance-weighted estimates of log p(x).

    Attributes:
        per_datum: log (1/K) sum_k w_k, nats, ``(num_data,)``, float64 on the CPU.
        effective_sample_size: (sum w)^2 / sum w^2 of each datum, between 1 and K, ``(num_data,)``.
        pareto_k: k-hat of each datum's weights (:func:`pareto_k`), ``(num_data,)``; NaN where there is no
            tail to fit (fewer than 21 particles, equal weights).
        num_particles: K, the particles that were drawn and used.
        sites: what the estimates are of, data sites by name (:class:`~pyro_vae.evaluation.results.DataSite`).
        split: the name of the data.
        doubts: what was found when the pair was examined, in sentences.
    """

    per_datum: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    num_particles: int
    sites: Mapping[str, DataSite] = field(default_factory=dict)
    split: str = "data"
    doubts: tuple[str, ...] = ()

    @property
    def pareto_k_max(self) -> float | None:
        """The largest k-hat; None where it is undefined for every datum."""
        defined = self.pareto_k[~self.pareto_k.isnan()]
        return defined.max().item() if len(defined) else None

    @property
    def pareto_k_above(self) -> float | None:
        """Share of data with k-hat above 0.7, of those for which it is defined; None if there are none."""
        defined = self.pareto_k[~self.pareto_k.isnan()]
        return (defined > UNRELIABLE).double().mean().item() if len(defined) else None

    @property
    def warnings(self) -> list[str]:
        """What makes the estimates doubtful, in sentences."""
        told = [*self.doubts, *not_finite(self.per_datum, "log-likelihood")]
        above = int((self.pareto_k > UNRELIABLE).sum())
        if not above:
            return told
        largest = self.pareto_k[self.pareto_k > UNRELIABLE].max().item()
        return [
            *told,
            f"Pareto k-hat is above {UNRELIABLE} for {above} of {len(self.per_datum)} data (up to {largest:.2f}): "
            "a few particles decide these bounds, which may lie far below log p(x), and their standard error is not to "
            "be trusted",
        ]

    def to_dict(self) -> dict[str, float | int | str | list[str] | None]:
        """The summary as plain values (nats unless the name says otherwise)."""
        return {
            "log_likelihood": self.mean,
            "standard_error": self.standard_error,
            "bits_per_dim": self.bits_per_dim,
            "bits_of": self.bits_of,
            "density": self.density,
            "num_particles": self.num_particles,
            "num_data": len(self.per_datum),
            "effective_sample_size": mean_and_error(self.effective_sample_size)[0],
            "pareto_k_max": self.pareto_k_max,
            "pareto_k_above": self.pareto_k_above,
            "warnings": self.warnings,
            "split": self.split,
        }


@dataclass
class EvidenceBound(PerDatum):
    """The ELBO and its parts.

    Attributes:
        per_datum: ELBO, nats, ``(num_data,)``, float64 on the CPU.
        log_likelihood: E_q log p(x | z) of each data site, nats, ``(num_data,)`` each.
        kl: KL of each latent site, raw (not weighted, not clamped), nats, ``(num_data,)`` each.
        num_particles: draws per datum.
        split: the name of the data.
    """

    per_datum: Tensor
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)
    kl: dict[str, Tensor] = field(default_factory=dict)
    num_particles: int = 1
    split: str = "data"
    doubts: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What makes the bound doubtful, in sentences."""
        return [*self.doubts, *not_finite(self.per_datum, "ELBO")]

    def to_dict(self) -> dict[str, object]:
        """The summary as plain values, nats."""
        return {
            "elbo": self.mean,
            "standard_error": self.standard_error,
            "reconstruction": {k: mean_and_error(v)[0] for k, v in self.log_likelihood.items()},
            "kl": {k: mean_and_error(v)[0] for k, v in self.kl.items()},
            "num_particles": self.num_particles,
            "num_data": len(self.per_datum),
            "warnings": self.warnings,
            "split": self.split,
        }
