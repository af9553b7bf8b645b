"""What objectives and evaluation read from a pair of traces: sites, plates, log-densities per datum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import pyro
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.programs.enumeration import NOTHING, PARTICLES, Sums
from pyro_vae.programs.handlers import is_penalty
from pyro_vae.programs.once import Differs, OneRun
from pyro_vae.programs.sites import Site, is_factor, is_point_mass, masked_like
from pyro_vae.programs.tables import Tables


def traced(program: Callable[..., Any], **arguments: Any) -> Trace:
    """The trace of one run of a program, without the indices that its plates draw."""
    return prune_subsample_sites(poutine.trace(program).get_trace(**arguments))


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
        num_particles: K, draws of each datum.
        particle_dim: batch dimension of their plate (negative).
        size: N, number of data in the batch; full_size: of the whole plate (larger when subsampled).
        copies: K, if the particles are no plate but further data, each datum's one after another; else 1.
        num_data: how many data share what is outside the data plate; full_size if None.
        data_plates: names of plates at dim -1 that are over the data; of the observed sites if None.
        left_out: factors of the guide that are no part of its density.
        sums: latent sites that are summed over; the traces have all their values.
        batch: what the programs were called with, by name, each datum once.
    """

    model: Trace
    guide: Trace
    num_particles: int
    particle_dim: int
    size: int
    full_size: float
    copies: int = 1
    num_data: int | None = None
    data_plates: frozenset[str] | None = None
    left_out: frozenset[str] = frozenset()
    sums: Sums = NOTHING
    batch: Mapping[str, Any] = field(default_factory=dict)
    shared: frozenset[str] = field(init=False)  # sites that all data share
    _tables: dict[frozenset[str], Tables] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        plates = self.data_plates or data_plates(self.model)
        self.shared = shared_sites(self.model, self.guide, plates)

    @property
    def subsample_scale(self) -> float:
        """What Pyro multiplied the sites of a subsampled data plate with."""
        return self.full_size / self.size

    def observed(self) -> dict[str, Site]:
        """The data sites (and factors) of the model, in program order."""
        return {n: s for n, s in self.model.nodes.items() if is_observed(s)}

    def latent(self) -> dict[str, tuple[Site, Site | None]]:
        """The latent sites that the guide draws, in its order, each with the model's site (None: auxiliary).

        What the model masks, the guide's site is masked as well.
        """
        return {n: sites for n, sites in self._of_guide().items() if n not in self.sums.names}

    def enumerated(self) -> dict[str, tuple[Site, Site]]:
        """The latent sites that the guide has with all their values, each with the model's."""
        return {n: (q, p) for n, (q, p) in self._of_guide().items() if n in self.sums.guide and p is not None}

    def _of_guide(self) -> dict[str, tuple[Site, Site | None]]:
        found: dict[str, tuple[Site, Site | None]] = {}
        for name, site in self.guide.nodes.items():
            if is_latent(site):
                p = self.model.nodes.get(name)
                found[name] = (site if p is None else masked_like(site, p), p)
        return found

    def in_model_order(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by latent site in the order in which the model draws the sites; what only the guide has comes last."""
        return {n: values[n] for n in dict.fromkeys((*self.model.nodes, *values)) if n in values}

    def counted_guide(self) -> Trace:
        """The guide's trace with its latent sites as they are counted (:meth:`latent`)."""
        trace = self.guide.copy()
        for name, (site, _) in self.latent().items():
            trace.nodes[name] = site
        return trace

    def guide_factors(self) -> dict[str, Site]:
        """The guide's factors (and whatever it observes) that are a part of log q; penalties are not."""
        factors = {n: s for n, s in self.guide.nodes.items() if is_observed(s) and not is_penalty(s)}
        return {n: s for n, s in factors.items() if n not in self.left_out}

    def penalties(self) -> dict[str, Site]:
        """The guide's terms that only training knows (:func:`pyro_vae.programs.handlers.penalty`)."""
        return {n: s for n, s in self.guide.nodes.items() if is_observed(s) and is_penalty(s)}

    def reports(self) -> dict[str, Tensor]:
        """Numbers that the guide's sites carry in ``infer["report"]``, by ``name/site``."""
        sites = {n: s["infer"].get("report") or {} for n, s in self.guide.nodes.items() if is_latent(s)}
        return {f"{key}/{name}": value.detach() for name, numbers in sites.items() for key, value in numbers.items()}

    def tables(self, summed: frozenset[str]) -> Tables:
        """The densities at all values of what is summed, of which some sites are summed here; see :class:`Tables`."""
        if summed not in self._tables:
            self._tables[summed] = Tables(self, summed)
        return self._tables[summed]

    def per_datum(self, value: Tensor, site: Site) -> Tensor:
        """Bring a site's batch-shaped value to ``(num_particles, size)``, summing its inner plates.

        A site outside the data plate is shared by all data: each datum carries 1/num_data of it. Over what the guide
        enumerates the mean is taken, under the guide.
        """
        frames = site["cond_indep_stack"]
        rank, rows = -self.particle_dim, self.size * self.copies
        if self.sums and value.dim() > rank:
            tables = self.tables(self.sums.model)
            return tables.per_datum(*tables.packed(value, site), site)
        particles = self.num_particles if self.copies == 1 else 1  # in the plate
        outer = next((f for f in frames if f.vectorized and f.dim <= -rank and f.name != PARTICLES), None)
        if outer is not None:
            raise InputError(
                f"site '{site['name']}' is in plate '{outer.name}' at dim {outer.dim}, where the programs had none "
                f"when they were run first, and the particles' plate is at dim {self.particle_dim}: let the programs "
                "have the same plates in every run"
            )
        if value.dim() > rank or (value.dim() == rank and value.shape[0] not in (1, particles)):
            raise InputError(
                f"site '{site['name']}' has batch shape {tuple(value.shape)}, at most {rank} dimensions were expected, "
                f"with plates at dim -1 (data: {self.size}) and {self.particle_dim} (particles: {particles}): "
                "declare event dimensions with .to_event"
            )
        value = value.reshape((1,) * (rank - value.dim()) + value.shape)
        shared = site["name"] in self.shared
        inner = tuple(range(1, rank if shared else rank - 1))  # plates between the particles and the data
        if inner:
            sizes = [next((f.size for f in frames if f.dim == i - rank), 1) for i in inner]
            value = value.expand(value.shape[0], *sizes, *value.shape[1 + len(sizes) :]).sum(
                inner
            )  # (K or 1, N or none)
        if shared:
            value = value.reshape(-1, 1) / (self.num_data or self.full_size)
        if value.shape[-1] not in (1, rows):
            raise InputError(
                f"site '{site['name']}' has batch shape {tuple(value.shape)}, which does not fit {self.size} data: "
                "is it in the data plate, with its event dimensions declared by .to_event?"
            )
        value = value.expand(particles, rows)
        return value if self.copies == 1 else value.reshape(self.size, self.copies).T  # (K, N)


def traced_pair(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    rewrite: Callable[[Trace], Trace] | None = None,
    once: OneRun | None = None,
) -> tuple[Trace, Trace]:
    """The traces of a model and of the guide that it is replayed against.

    Args:
        model, guide: the programs.
        args, kwargs: what both are called with.
        rewrite: makes from the guide's trace the one that the model is replayed against; None: it is that.
        once: a handler under which the model is not run again where the guide has run it; None: it always is.
    """
    with once or nullcontext():
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    if rewrite is not None:
        guide_trace = rewrite(guide_trace)
    replayed = poutine.trace(poutine.replay(model, trace=guide_trace))
    if once is not None:
        with suppress(Differs), once.telling():
            return replayed.get_trace(*args, **kwargs), guide_trace
    return replayed.get_trace(*args, **kwargs), guide_trace


def plate_dims(*traces: Trace) -> int:
    """How many batch dimensions the plates of programs take, from the right; at least one, for the data."""
    frames = (f for t in traces for s in t.nodes.values() for f in s.get("cond_indep_stack", ()) if f.vectorized)
    return max((-f.dim for f in frames if f.name != PARTICLES), default=1)


def repeat(batch: Mapping[str, Tensor], times: int) -> dict[str, Tensor]:
    """Each datum as often as asked, its copies one after another."""
    return {name: _repeated(value, times) for name, value in batch.items()}


def repeated_arguments(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], times: int
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments of a program with each datum as often as asked."""
    if times == 1:
        return args, kwargs
    return tuple(_repeated(v, times) for v in args), {name: _repeated(v, times) for name, v in kwargs.items()}


def _repeated(value: Any, times: int) -> Any:
    return value.repeat_interleave(times, 0) if isinstance(value, Tensor) and value.dim() else value


def in_particle_plate(program: Callable[..., Any], num_particles: int, dim: int) -> Callable[..., Any]:
    """The program inside an outer plate of particles (one particle: the program itself)."""
    return program if num_particles == 1 else pyro.plate(PARTICLES, num_particles, dim=dim)(program)


def data_plates(trace: Trace) -> frozenset[str]:
    """Names of the plates at dim -1 that a model's data sites are in."""
    sites = [s for s in trace.nodes.values() if is_observed(s)]
    of_data = [s for s in sites if not is_factor(s)] or sites
    frames = [f for s in of_data or trace.nodes.values() for f in s.get("cond_indep_stack", ()) if f.dim == -1]
    return frozenset(f.name for f in frames)


def shared_sites(model: Trace, guide: Trace, plates: frozenset[str]) -> frozenset[str]:
    """The sites that all data share: those in no plate over the data.

    Of a latent site the model's plates decide, for a guide may name its own otherwise.

    Args:
        model, guide: traces.
        plates: names of the model's plates over the data.
    """
    shared = {n for n, s in model.nodes.items() if s["type"] == "sample" and not _frames(s, plates)}
    of_shared = {f.name for n in shared for s in _both(model, guide, n) for f in s["cond_indep_stack"] if f.dim == -1}
    for name, site in guide.nodes.items():
        if site["type"] == "sample" and name not in model.nodes:
            at_last = [f.name for f in site["cond_indep_stack"] if f.dim == -1]
            if not at_last or (at_last[0] in of_shared - plates):
                shared.add(name)
    return frozenset(shared)


def _frames(site: Site, plates: frozenset[str]) -> list[Any]:
    return [f for f in site["cond_indep_stack"] if f.dim == -1 and f.name in plates]


def _both(model: Trace, guide: Trace, name: str) -> list[Site]:
    return [trace.nodes[name] for trace in (model, guide) if name in trace.nodes]


def data_frame(trace: Trace) -> Any:
    """The plate at dim -1 of the data sites, each of which must be in one.

    Raises:
        InputError: names a data site or a factor that is in none, or in one of another size.
    """
    frames: dict[str, Any] = {}
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or not is_observed(site):
            continue
        found = next((f for f in site["cond_indep_stack"] if f.dim == -1), None)
        if found is None and is_factor(site):
            raise InputError(
                f"factor '{name}' of the model is in no plate at dim -1: a term that all data share is part of no "
                "datum's likelihood. Put it into `with pyro.plate('data', len(x)):`, with a value per datum"
            )
        if found is None:
            inner = [f"'{f.name}' at dim {f.dim}" for f in site["cond_indep_stack"] if f.vectorized]
            where = f"it is in plate {', '.join(inner)}" if inner else "it is in none"
            raise InputError(
                f"data site '{name}' is in no plate at dim -1 ({where}): put per-datum sites in "
                "`with pyro.plate('data', len(x)):` and declare event dimensions with .to_event"
            )
        frames.setdefault(name, found)
    if not frames:
        any_frame = next((f for s in trace.nodes.values() for f in s.get("cond_indep_stack", ()) if f.dim == -1), None)
        if any_frame is None:
            raise InputError("the model has no data: no site is in a `pyro.plate('data', len(x))`")
        return any_frame
    sizes = {f.size: name for name, f in frames.items()}
    if len(sizes) > 1:
        text = ", ".join(f"'{name}' in a plate of {size}" for size, name in sizes.items())
        raise InputError(
            f"the data sites are in plates at dim -1 of different sizes: {text}; all must be over the data"
        )
    return next(iter(frames.values()))


def check_sites(model_trace: Trace, guide_trace: Trace, summed: frozenset[str] = frozenset()) -> None:
    """Both programs must sample the same latent sites; only the guide may have auxiliary ones.

    Args:
        model_trace, guide_trace: of the programs.
        summed: latent sites of the model that the guide is not to have.
    """
    ours = [n for n, s in model_trace.nodes.items() if is_latent(s) and n not in summed]
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
            f"the guide samples {', '.join(extra)}, which the model does not (it has: {', '.join(ours) or 'none'}): "
            "give each site the model's name for it, or take it out"
        )


def is_deterministic(pair: TracePair) -> bool:
    """Whether a guide has nothing to draw, so that all particles are the same: every latent is a point mass."""
    return all(is_point_mass(q["fn"]) for q, _ in pair.latent().values())
