"""KL and activity of each latent site and of each of its units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.data import DataLike
from pyro_vae.errors import InputError, positive, unknown
from pyro_vae.evaluation.chunks import MEMORY_BUDGET, Chunks, Piece
from pyro_vae.evaluation.results import Result
from pyro_vae.programs.densities import analytic_sites, bound_terms, closed_kl, log_prior, log_prob, told_together
from pyro_vae.programs.session import anything_to_draw, evaluating
from pyro_vae.programs.sites import (
    Site,
    factors,
    inside_support,
    is_point_mass,
    kept,
    may_leave,
    mean_or_none,
)
from pyro_vae.programs.traces import TracePair
from pyro_vae.runtime import keep_freed_memory


class UnitKL(NamedTuple):
    """KL of the units of a latent site.

    Attributes:
        value: nats, ``(*batch, *units)``.
        dims: how many dimensions the units take.
        closed_form: whether it is a closed form, else log q(z) - log p(z) at the drawn value.
    """

    value: Tensor
    dims: int
    closed_form: bool


def unit_kl(q: Site, p: Site, *, analytic: bool) -> UnitKL:
    r"""KL of each unit of a site, raw: neither weighted nor clamped.

    .. math:: KL(q \,\|\, p) = \sum_d KL(q_d \,\|\, p_d) \quad \text{for } q = \prod_d q_d,\ p = \prod_d p_d

    The units are the event dimensions that both distributions declare independent (``.to_event``); a site without
    such, e.g. a multivariate Gaussian, is one unit.

    Args:
        q, p: the guide's and the model's site.
        analytic: take the closed form where one is registered with ``torch.distributions.kl``.
    """
    (q_base, q_dims), (p_base, p_dims) = factors(q["fn"]), factors(p["fn"])
    dims = min(q_dims, p_dims)
    if q["fn"].event_dim != p["fn"].event_dim:
        dims, q_fn, p_fn = 0, q["fn"], p["fn"]
    else:
        q_fn, p_fn = (_grouped(base, own - dims) for base, own in ((q_base, q_dims), (p_base, p_dims)))
    closed = closed_kl(q, p, (q_fn, p_fn)) if analytic else None
    if closed is not None:
        return UnitKL(_masked(closed, q["mask"], dims), dims, True)
    log_p = p_fn.log_prob(p["value"])
    if may_leave(q["fn"], p["fn"]):
        inside = inside_support(p["fn"], p["value"], kept(p))
        log_p = torch.where(inside.reshape(*inside.shape, *(1,) * dims), log_p, -torch.inf)
    log_q, log_p = _masked(q_fn.log_prob(q["value"]), q["mask"], dims), _masked(log_p, p["mask"], dims)
    return UnitKL(log_q - log_p, dims, False)


def kl_of_mixtures(pair: TracePair) -> dict[str, UnitKL]:
    """KL of the sites whose prior is a sum over discrete latents: no product over units, so that each is one unit."""
    if not pair.sums:
        return {}
    rank = -pair.particle_dim
    mixtures = {n for n, (_, p) in pair.latent().items() if p is not None and len(p["fn"].batch_shape) > rank}
    terms = {t.site["name"]: t.raw for t in bound_terms(pair, analytic=False) if t.kind == "latent"}
    found = {}
    for name in mixtures & terms.keys():
        value = terms[name] if pair.copies == 1 else terms[name].T.reshape(1, -1)  # the particles' copies as they lie
        found[name] = UnitKL(value.reshape(value.shape[0], *(1,) * (rank - 2), value.shape[1]), 0, False)
    return found


def kl_of_functions(pair: TracePair) -> dict[str, UnitKL | None]:
    """KL of the sites that are functions of the guide's own draws, as one unit; None if several have one together."""
    told, latent = told_together(pair), pair.latent()
    found: dict[str, UnitKL | None] = {}
    for name, (q, p) in latent.items():
        own = [u for u, (_, of_model) in latent.items() if of_model is None and told[u] == told[name]]
        if p is not None and told[name] != name:
            found[name] = None
        elif p is not None and own:
            parts = [log_prob(q), *(log_prob(latent[u][0]) for u in own)]
            alike = len({part.shape for part in parts}) == 1
            found[name] = UnitKL(sum(parts[1:], parts[0]) - log_prior(p, q), 0, False) if alike else None
    return found


def _grouped(fn: Any, dims: int) -> Distribution:
    return fn.to_event(dims) if dims else fn


def _masked(value: Tensor, mask: Any, dims: int) -> Tensor:
    """Zero where a site's mask, ``(*batch)``, is False."""
    if isinstance(mask, Tensor):
        mask = mask.reshape(mask.shape + (1,) * dims)
    return scale_and_mask(value, 1.0, mask)


ACTIVE = 0.01  # variance over data above which a unit is active


@dataclass
class SiteStatistics:
    """Statistics of one latent site.

    Attributes:
        kl: KL(q || p), mean over data, nats per datum; raw: neither weighted nor clamped.
        kl_per_unit: the same of each unit, ``(*units)``, float64 on the CPU; sums to ``kl``. The units are the event
            dimensions (and inner plates) over which both q and p are products; ``()`` if there are none.
        closed_form: whether the KL is one, else it is estimated at the draws.
        kl_clamped: max(free bits, kl), nats per datum; None without free bits.
        variance: Var_x(E_q[z_d | x]), ``(*inner plates, *event)``; None for a site that all data share, for
            distributions without a mean (codes), and for a function of other latents.
        is_function: whether the model has a point mass there: the site is a function of the other latents (the vectors
            of codes), says nothing of its own, and has no units.
    """

    kl: float
    kl_per_unit: Tensor
    closed_form: bool
    kl_clamped: float | None = None
    variance: Tensor | None = None
    is_function: bool = False

    @property
    def active(self) -> Tensor | None:
        """Which units are active: Var_x(E_q[z_d | x]) > 0.01 (Burda et al. 2016, arXiv:1509.00519); as ``variance``."""
        return None if self.variance is None else self.variance > ACTIVE

    @property
    def num_active(self) -> int | None:
        """How many units are active."""
        return None if self.active is None else int(self.active.sum())

    def to_dict(self) -> dict[str, object]:
        """The statistics as plain values, nats; what is not defined for the site is left out."""
        entry: dict[str, object] = {"kl": self.kl, "kl_per_unit": self.kl_per_unit.tolist()}
        if self.kl_clamped is not None:
            entry["kl_clamped"] = self.kl_clamped
        if self.active is not None:
            entry |= {"active": self.active.tolist(), "num_active": self.num_active, "num_units": self.active.numel()}
        return entry


@dataclass
class LatentStatistics(Result):
    """Statistics of every latent site that model and guide share.

    Attributes:
        sites: by name, in the guide's order; without those that are functions of one and the same draw of the guide's,
            which have one KL together (:func:`~pyro_vae.evaluation.elbo`) and none each.
        num_particles: draws per datum.
        num_data: how many data they are means over.
        split: the name of the data.
    """

    sites: dict[str, SiteStatistics]
    num_particles: int
    num_data: int
    split: str = "data"

    @property
    def rows(self) -> dict[str, str]:
        """The KL of each site, and how many of its units are active."""

        def entry(site: SiteStatistics) -> str:
            active = "" if site.active is None else f", {site.num_active} of {site.active.numel()} units active"
            return f"{site.kl:.2f} nats{active}"

        return {f"KL of {name}": entry(site) for name, site in self.sites.items()}

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values, nats."""
        return {
            "sites": {name: site.to_dict() for name, site in self.sites.items()},
            "num_particles": self.num_particles,
            "num_data": self.num_data,
            "split": self.split,
        }


def latent_statistics(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    num_particles: int = 10,
    free_bits: float | Mapping[str, float] | None = None,
    memory_budget: int = MEMORY_BUDGET,
    vectorize: bool = True,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> LatentStatistics:
    r"""KL of each latent site and of its units, and how many units are active.

    A KL is taken in closed form where one is registered and is the same expectation (see
    :func:`~pyro_vae.programs.densities.analytic_sites`), else at the draws. A site that depends on other latents has
    the mean :math:`E_q[z_d | x]` over their draws; the variance that this estimate adds is subtracted (with one
    particle it cannot be, and counts as activity).

    Args:
        model, guide: Pyro programs whose per-datum sites are in a plate at dim -1.
        data: as for :func:`~pyro_vae.evaluation.log_likelihood`.
        num_particles: draws per datum; one, if the guide has nothing to draw.
        free_bits: nats, for every latent site or by site name, for ``kl_clamped``.
        memory_budget: bytes that the tensors computed at once may take; no number depends on it.
        vectorize: particles in a plate left of the data plate (the programs must broadcast); False: each datum is
            repeated, which any program can do.
        seed: of the draws; the global random state is left as it was.
        device: where to evaluate; the programs' device if None.

    Returns:
        statistics of every site but those only the guide has.

    Raises:
        InputError: for non-positive particles or budget, a budget that one particle of one datum exceeds, negative
            free bits or free bits for an unknown site, data out of the likelihood's support, sites that do not match.

    Example:
        >>> import torch, pyro_vae
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> statistics = pyro_vae.evaluation.latent_statistics(model, guide, x)
        >>> statistics.sites["z"].kl_per_unit.shape
        torch.Size([2])
    """
    positive("num_particles", num_particles)
    positive("memory_budget", memory_budget)
    _check_not_negative(free_bits)
    sums: dict[str, _Sums] = {}
    with evaluating(model, guide, data, seed, device, vectorize=vectorize, bounds=False) as (programs, split):
        programs = programs.drawn()
        if not anything_to_draw(programs, split):
            num_particles = 1
        keep_freed_memory()

        def look(piece: Piece) -> None:
            pair = piece.traces
            analytic = analytic_sites(pair)
            sites = pair.in_model_order({n: (q, p) for n, (q, p) in pair.latent().items() if p is not None})
            _check_known(free_bits, sites)
            whole = kl_of_mixtures(pair) | kl_of_functions(pair)
            for name, (q, p) in sites.items():
                kl = whole[name] if name in whole else unit_kl(q, p, analytic=name in analytic)
                if kl is None:
                    continue
                sums.setdefault(name, _Sums()).add(piece, q, p, kl)

        Chunks(programs, split, num_particles, memory_budget).run(look)
    free = free_bits if isinstance(free_bits, Mapping) else dict.fromkeys(sums, free_bits)
    statistics = {name: site.finish(free.get(name)) for name, site in sums.items()}
    return LatentStatistics(statistics, num_particles, len(split), split.name)


class _Sums:
    """One site's sums over batches, float64 on the data's device."""

    def __init__(self) -> None:
        self.count = 0
        self.closed_form = True
        self.is_function = False
        self.kl: Tensor | float = 0.0  # (*units), summed over data
        self.mean: Tensor | None = None  # of the posterior means over data, (*inner, *event)
        self.squares: Tensor | float = 0.0  # of their deviations from it
        self.noise: Tensor | float = 0.0  # variance of their estimates over particles
        self._of_these: list[Tensor] = []  # posterior means of the data that are looked at, by piece of their particles

    def add(self, piece: Piece, q: Site, p: Site, kl: UnitKL) -> None:
        """Add a piece, whose particles are in their plate or are copies of the data one after another."""
        pair = piece.traces
        copies, size = pair.copies, pair.size
        pair.per_datum(kl.value.sum(tuple(range(-kl.dims, 0))) if kl.dims else kl.value, q)  # checks the plates
        value = _rank(kl.value.double(), pair, kl.dims).mean((0, -1 - kl.dims))  # (*inner, *units)
        shared = q["name"] in pair.shared
        if shared:  # the mean was taken over a plate of its own at dim -1, if it has one
            value = value * next((frame.size for frame in q["cond_indep_stack"] if frame.dim == -1), 1)
        inner = [i for i in range(-pair.particle_dim - 2) if _plate_at(i + 1 + pair.particle_dim, q) is None]
        value = _without(value, inner) / ((pair.num_data or pair.full_size) if shared else 1)
        self.kl = self.kl + value * (size * piece.share)
        self.closed_form = self.closed_form and kl.closed_form
        self.is_function = is_point_mass(p["fn"])
        mean = None if shared or self.is_function else mean_or_none(q["fn"])
        if mean is not None:
            events = q["fn"].event_dim
            mean = _rank(mean.double(), pair, events).movedim(-1 - events, 1)  # (particles, data, *inner, *event)
            mean = _without(mean, [2 + i for i in inner])
            if copies > 1:
                mean = (
                    mean.expand(1, size * copies, *mean.shape[2:])
                    .reshape(size, copies, *mean.shape[2:])
                    .transpose(0, 1)
                )
            self._of_these.append(mean)
        if piece.last:
            if self._of_these:
                self._add_means(torch.cat(self._of_these), size)
                self._of_these = []
            self.count += size

    def _add_means(self, values: Tensor, size: int) -> None:
        """Add posterior means given ``particles`` draws of the other latents, ``(particles, data, ...)``."""
        particles = values.shape[0]
        if particles > 1:
            self.noise = self.noise + values.var(0).sum(0) / particles
        values = values.mean(0).expand(size, *values.shape[2:])
        mean = values.mean(0)
        squares = (values - mean).square().sum(0)
        if self.mean is not None:  # two sets of data joined (Chan et al. 1979)
            shift = mean - self.mean
            squares = squares + shift.square() * (self.count * size / (self.count + size))
            mean = self.mean + shift * (size / (self.count + size))
        self.mean, self.squares = mean, self.squares + squares

    def finish(self, free_bits: float | None) -> SiteStatistics:
        """Return the statistics of all data."""
        per_unit = torch.as_tensor(self.kl).cpu() / self.count
        kl = per_unit.sum().item() + 0.0  # no -0.0
        variance = None
        if self.mean is not None:
            variance = (self.squares / max(self.count - 1, 1) - self.noise / self.count).cpu()
        clamped = None if free_bits is None else max(float(free_bits), kl)
        return SiteStatistics(kl, per_unit, self.closed_form, clamped, variance, self.is_function)


def _rank(value: Tensor, pair: TracePair, events: int) -> Tensor:
    """Bring ``(*batch, *event)`` to ``(particles, *inner plates, data, *event)``, of size 1 where it is constant."""
    return value.reshape((1,) * (events - pair.particle_dim - value.dim()) + value.shape)


def _plate_at(dim: int, site: Site) -> Any:
    return next((frame for frame in site["cond_indep_stack"] if frame.dim == dim), None)


def _without(value: Tensor, dims: list[int]) -> Tensor:
    """Drop dimensions of size 1."""
    return value.squeeze(tuple(dims)) if dims else value


def _check_not_negative(free_bits: float | Mapping[str, float] | None) -> None:
    values = free_bits.values() if isinstance(free_bits, Mapping) else [free_bits or 0.0]
    if not all(value >= 0 for value in values):
        raise InputError(f"free_bits must not be negative (nats per site), got {free_bits}")


def _check_known(free_bits: float | Mapping[str, float] | None, sites: Mapping[str, Any]) -> None:
    for name in free_bits if isinstance(free_bits, Mapping) else ():
        if name not in sites:
            raise unknown("latent site in free_bits", name, sites)
