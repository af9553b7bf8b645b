"""How many numbers a datum has at each of a model's data sites, and whether their likelihood is a density."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.evaluation.chunks import Chunks, Piece
from pyro_vae.programs.densities import log_prob
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.sites import Site, density_of, innermost, is_discrete, is_factor, kept
from pyro_vae.programs.traces import TracePair
from pyro_vae.runtime import private_seed


@dataclass(frozen=True)
class DataSite:
    """One data site of a model.

    Attributes:
        dimensions: numbers of one datum that are counted, a mean over the data. Not counted are those that a mask
            leaves out, and what stands behind the end of a sequence.
        density: whether its likelihood is a density; False: a probability; None: it does not say.
        nats: mean log p of the site, where that depends on no latent (a text before all codes, say); else None.
        of: the function of the data that it is a density of (:func:`~pyro_vae.programs.sites.density_of`); None: data.
        tokens: whether the numbers are tokens and their ends, of which a perplexity is told.
    """

    dimensions: float
    density: bool | None
    nats: float | None = None
    of: str | None = None
    tokens: bool = False


def tokens_of(site: Site) -> Tensor | None:
    """Which numbers of a site's value are tokens or their end, in the value's shape; None: it is no site of tokens.

    A distribution of sequences says it by a method ``counted(value)``.
    """
    counted = getattr(innermost(site["fn"]), "counted", None)
    return None if counted is None else counted(site["value"])


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
    tokens = {name for name, site in sites.items() if tokens_of(site) is not None}
    masked = any(kept(site) is not None for site in sites.values())
    if not masked and not fixed and not tokens:
        return {name: DataSite(_whole(site, first), kinds[name], of=density_of(site)) for name, site in sites.items()}
    counted, nats = dict.fromkeys(sites, 0.0), dict.fromkeys(fixed, 0.0)

    def look(piece: Piece) -> None:
        traces = piece.traces
        for name in sites:
            counted[name] += _counted(traces.model.nodes[name], traces)
        for name in fixed:
            site = traces.model.nodes[name]
            nats[name] += traces.per_datum(log_prob(site), site).double().sum().item()

    Chunks(pair, split, 1, memory_budget).run(look)
    n = len(split)
    return {
        name: DataSite(
            counted[name] / n, kinds[name], nats[name] / n if name in fixed else None, density_of(site), name in tokens
        )
        for name, site in sites.items()
    }


def _whole(site: Site, traces: TracePair) -> float:
    inner = [f.size for f in site["cond_indep_stack"] if f.vectorized and f.dim != -1]
    return float(math.prod((*site["fn"].event_shape, *inner)))


def _counted(site: Site, traces: TracePair) -> float:
    """Numbers of a batch that no mask leaves out, and that are not behind an end."""
    mask, tokens = kept(site), tokens_of(site)
    if tokens is not None:
        mask = tokens if mask is None else tokens & mask
    if mask is None:
        return _whole(site, traces) * traces.size
    inner = tuple(range(-site["fn"].event_dim, 0))
    numbers = (mask.sum(inner) if inner else mask).double()  # (..., N)
    enumerated = tuple(range(numbers.dim() + traces.particle_dim))  # what is summed over is no further data
    return float(traces.per_datum(numbers.mean(enumerated) if enumerated else numbers, site).mean(0).sum())


def counted_tokens(traces: TracePair) -> float | None:
    """Tokens and ends of a batch at all its data sites, a mean over particles; None: some site is none of tokens."""
    sites = [site for site in traces.observed().values() if not is_factor(site)]
    if any(tokens_of(site) is None for site in sites):
        return None
    return sum(_counted(site, traces) for site in sites)


def _without_latents(pair: Pair, split: Split) -> set[str]:
    """The data sites whose log-likelihood is the same for all particles."""
    traces = pair.traces(split.batch(slice(0, 2)), 3)
    values = {name: (site, log_prob(site)) for name, site in traces.observed().items()}
    values = {
        name: traces.per_datum(value, site)
        for name, (site, value) in values.items()
        if not pair.sums or value.dim() <= -traces.particle_dim  # else it depends on what is summed over
    }
    return {name for name, value in values.items() if bool((value == value[:1]).all())}
