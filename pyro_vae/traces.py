"""What objectives and evaluation read from a pair of traces: sites, plates, log-densities per datum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.errors import InputError
from pyro_vae.penalty import is_penalty

Site = dict[str, Any]
PARTICLES = "particles"


def is_latent(site: Site) -> bool:
    """Whether a trace's node is a latent site."""
    return site["type"] == "sample" and not site["is_observed"]


def is_observed(site: Site) -> bool:
    """Whether a trace's node is a data site or a factor (``pyro.deterministic`` is neither)."""
    return site["type"] == "sample" and site["is_observed"] and not site["infer"].get("_deterministic")


@dataclass
class TracePair:
    """A model's trace replayed against its guide's, and where particles and data lie in their tensors.

    Attributes:
        model, guide: traces without subsampling sites.
        num_particles: size of the particle plate (1: no plate).
        particle_dim: its batch dimension (negative).
        size: number of data in the batch; full_size: of the whole plate (larger when subsampled).
    """

    model: Trace
    guide: Trace
    num_particles: int
    particle_dim: int
    size: int
    full_size: int

    def observed(self) -> dict[str, Site]:
        """The data sites (and factors) of the model, in program order."""
        return {n: s for n, s in self.model.nodes.items() if is_observed(s)}

    def latent(self) -> dict[str, tuple[Site, Site | None]]:
        """The latent sites of the guide in its order, each with the model's site (None: auxiliary)."""
        sites = {n: s for n, s in self.guide.nodes.items() if is_latent(s)}
        return {name: (site, self.model.nodes.get(name)) for name, site in sites.items()}

    def guide_factors(self) -> dict[str, Site]:
        """The guide's factors (and whatever it observes), which are a part of log q; penalties are not."""
        return {n: s for n, s in self.guide.nodes.items() if is_observed(s) and not is_penalty(s)}

    def penalties(self) -> dict[str, Site]:
        """The guide's terms that only training knows (:func:`pyro_vae.penalty.penalty`)."""
        return {n: s for n, s in self.guide.nodes.items() if is_observed(s) and is_penalty(s)}

    def reports(self) -> dict[str, Tensor]:
        """Numbers that the guide's sites carry in ``infer["report"]``, by ``name/site``."""
        sites = {n: s["infer"].get("report") or {} for n, s in self.guide.nodes.items() if is_latent(s)}
        return {f"{key}/{name}": value.detach() for name, told in sites.items() for key, value in told.items()}

    def per_datum(self, value: Tensor, site: Site) -> Tensor:
        """Bring a site's batch-shaped value to ``(num_particles, size)``, summing its inner plates.

        A site outside the data plate is shared by all data: each datum carries 1/full_size of it.
        """
        frames = site["cond_indep_stack"]
        rank = -self.particle_dim
        outer = next((f for f in frames if f.vectorized and f.dim <= -rank and f.name != PARTICLES), None)
        if outer is not None:
            raise InputError(
                f"site '{site['name']}' is in plate '{outer.name}' at dim {outer.dim}, but only {rank - 1} batch "
                f"dimensions were said to be the programs' own: use max_plate_nesting={-outer.dim}"
            )
        if value.dim() > rank or (value.dim() == rank and value.shape[0] not in (1, self.num_particles)):
            raise InputError(
                f"site '{site['name']}' has batch shape {tuple(value.shape)}, at most {rank} dimensions were expected, "
                f"with plates at dim -1 (data: {self.size}) and {self.particle_dim} (particles: {self.num_particles}): "
                "declare event dimensions with .to_event"
            )
        value = value.reshape((1,) * (rank - value.dim()) + value.shape)
        if rank > 2:  # inner plates between the particles and the data
            inner = tuple(range(1, rank - 1))
            sizes = [next((f.size for f in frames if f.dim == i - rank), 1) for i in inner]
            value = value.expand(value.shape[0], *sizes, value.shape[-1]).sum(inner)
        if not any(f.dim == -1 for f in frames):
            value = value / self.full_size
        return value.expand(self.num_particles, self.size)


def trace_pair(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    num_particles: int = 1,
    max_plate_nesting: int = 1,
    rewrite: Callable[[Trace], Trace] | None = None,
) -> TracePair:
    """Trace the guide, and the model replayed against it, with all particles in one outer plate.

    Args:
        model, guide: Pyro programs with a data plate at dim -1.
        args, kwargs: what both are called with.
        num_particles: particles per datum, drawn in one plate at dim ``-(max_plate_nesting + 1)``.
        max_plate_nesting: how many batch dimensions the programs' own plates use (1: the data plate).
        rewrite: makes from the guide's trace the one that the model is replayed against.

    Raises:
        InputError: if the model has no data plate, or a latent site is in one program only.
    """
    particle_dim = -(max_plate_nesting + 1)
    model = in_particle_plate(model, num_particles, particle_dim)
    guide = in_particle_plate(guide, num_particles, particle_dim)
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    if rewrite is not None:
        guide_trace = rewrite(guide_trace)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    guide_trace, model_trace = prune_subsample_sites(guide_trace), prune_subsample_sites(model_trace)
    _check_sites(model_trace, guide_trace)
    frame = _data_frame(model_trace)
    return TracePair(model_trace, guide_trace, num_particles, particle_dim, frame.size, frame.full_size or frame.size)


def in_particle_plate(program: Callable[..., Any], num_particles: int, dim: int) -> Callable[..., Any]:
    """The program inside an outer plate of particles (one particle: the program itself)."""
    return program if num_particles == 1 else pyro.plate(PARTICLES, num_particles, dim=dim)(program)


def _data_frame(trace: Trace) -> Any:
    """The plate at dim -1; data sites must be in it."""
    frame = None
    for name, site in trace.nodes.items():
        if site["type"] != "sample":
            continue
        found = next((f for f in site["cond_indep_stack"] if f.dim == -1), None)
        if found is None and is_observed(site):
            raise InputError(
                f"data site '{name}' is in no plate at dim -1: put per-datum sites in "
                "`with pyro.plate('data', len(x)):` and declare event dimensions with .to_event"
            )
        frame = found or frame
    if frame is None:
        raise InputError("the model has no data: no site is in a `pyro.plate('data', len(x))`")
    return frame


def _check_sites(model_trace: Trace, guide_trace: Trace) -> None:
    """Both programs must sample the same latent sites; only the guide may have auxiliary ones."""

    ours = [n for n, s in model_trace.nodes.items() if is_latent(s)]
    theirs = {n: s for n, s in guide_trace.nodes.items() if is_latent(s)}
    missing = [n for n in ours if n not in theirs]
    extra = [n for n, s in theirs.items() if n not in ours and not s["infer"].get("is_auxiliary")]
    if missing:
        raise InputError(
            f"the guide lacks the model's latent site{'s' * (len(missing) > 1)} {', '.join(missing)} "
            f"(it has: {', '.join(theirs) or 'none'}); add a pyro.sample of the same name"
        )
    if extra:
        raise InputError(
            f"the guide samples {', '.join(extra)}, which the model does not (it has: {', '.join(ours)}); "
            "mark a site that is only the guide's with infer={'is_auxiliary': True}"
        )


def log_prob(site: Site, *, scaled: bool = True, fn: Any = None) -> Tensor:
    """log-density of a site's value in nats, per batch element; masked, and scaled unless told otherwise."""
    value = (fn or site["fn"]).log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(value, site["scale"] if scaled else 1.0, site["mask"])


def subsample_scale(pair: TracePair) -> float:
    """What Pyro multiplied the sites of a subsampled data plate with: full_size / size."""
    return pair.full_size / pair.size


def analytic_sites(pair: TracePair) -> set[str]:
    """The latent sites whose KL may be taken in closed form, the other sites' samples being held.

    E over z_i of log q(z_i | .) - log p(z_i | .) is a KL only if p's conditional depends on nothing that the
    guide draws after z_i. By the order of the programs: all that the model draws before z_i, the guide has
    drawn before z_i as well. For the other sites the closed form would be a different, biased objective.
    """
    guide_order = list(pair.latent())
    model_order = [n for n in pair.model.nodes if n in pair.latent()]
    sites = set()
    for name in model_order:
        before = set(model_order[: model_order.index(name)])
        if before <= set(guide_order[: guide_order.index(name)]):
            sites.add(name)
    return sites


def site_kl(q: Site, p: Site | None, *, analytic: bool) -> tuple[Tensor, Tensor]:
    """KL of one latent site in nats, per batch element: raw, and as weighted by the sites' scales.

    Closed form where ``analytic`` and registered for the two distributions, else log q(z) - log p(z) at the
    drawn value. An auxiliary site (``p`` None) contributes log q(z).
    """
    if p is not None and analytic:
        try:
            raw = kl_divergence(q["fn"], p["fn"])
        except NotImplementedError:
            pass
        else:
            raw = scale_and_mask(raw, 1.0, q["mask"])
            return raw, scale_and_mask(raw, q["scale"], None)
    log_q = log_prob(q, scaled=False)
    if p is None:
        return log_q, scale_and_mask(log_q, q["scale"], None)
    log_p = log_prob(p, scaled=False)
    weighted = scale_and_mask(log_q, q["scale"], None) - scale_and_mask(log_p, p["scale"], None)
    return log_q - log_p, weighted


def total(terms: list[Tensor]) -> Tensor:
    """Sum of a list of tensors of equal shape (zero-dimensional zero if there are none)."""
    return torch.stack(terms).sum(0) if len(terms) > 1 else (terms[0] if terms else torch.zeros(()))


def log_weights(pair: TracePair, *, scaled: bool = True) -> Tensor:
    """log w = log p(x, z) - log q(z | x) of every particle and datum, ``(num_particles, size)``, nats.

    Args:
        pair: traces of one batch.
        scaled: apply the sites' scales (KL weights; a subsampled plate's factor is taken out); False: log p, log q.

    Raises:
        InputError: if a latent site is outside the data plate.
    """
    return log_weights_by_site(pair, scaled=scaled)[0]


def log_weights_by_site(
    pair: TracePair, *, scaled: bool = True, guide_sites: dict[str, Site] | None = None
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """log w, and what it is made of: every density is evaluated once.

    Args:
        pair, scaled: as for :func:`log_weights`.
        guide_sites: latent sites to take log q from, in place of the guide trace's.

    Returns:
        log w; raw log p(x | z) of each data site; raw log q(z) - log p(z) of each latent site; all
        ``(num_particles, size)``.

    Raises:
        InputError: if a latent site is outside the data plate.
    """
    subsample = pair.full_size / pair.size if scaled else 1.0
    parts, observed, kl = [], {}, {}

    def add(site: Site, sign: float) -> Tensor:
        raw = log_prob(site, scaled=False)
        weighted = scale_and_mask(raw, site["scale"], None) if scaled else raw
        parts.append(sign * pair.per_datum(weighted, site))
        return pair.per_datum(raw, site)

    for name, site in pair.observed().items():
        observed[name] = add(site, 1.0)
    for name, (q, p) in pair.latent().items():
        if not any(f.dim == -1 for f in q["cond_indep_stack"]):
            raise InputError(
                f"latent site '{name}' is outside the data plate: a bound per datum is not defined for a latent "
                "that all data share; use the ELBO"
            )
        kl[name] = add(guide_sites[name] if guide_sites else q, -1.0)
        if p is not None:
            kl[name] = kl[name] - add(p, 1.0)
    for site in pair.guide_factors().values():
        add(site, -1.0)
    return total(parts) / subsample, observed, kl
