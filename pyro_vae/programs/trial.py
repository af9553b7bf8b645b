"""A trial run of a pair: whether many data and particles at once give what one at a time gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.errors import first_line
from pyro_vae.programs.enumeration import NOTHING, Sums, with_all_values
from pyro_vae.programs.sites import REAL, Site, elementwise_support, factors, is_factor
from pyro_vae.programs.traces import in_particle_plate, is_latent, is_observed, traced

ERROR = 1e-4  # relative to a site's largest number: rounding of other sizes of tensors is less
ULPS = 32  # by which a location may differ for that reason: what it does to a density is large where the scale is small
Row = Mapping[str, Tensor]


@dataclass(frozen=True)
class Trial:
    """What came out.

    Attributes:
        plate: particles may be a plate left of the programs' own plates.
        together: data may be run in one batch.
        one_in_plate: particles of a single datum may be a plate.
        reason: why not, in words; empty if all is well.
        data_plates: names of the plates at dim -1 that grow with the data; None if that is not known.
    """

    plate: bool = True
    together: bool = True
    one_in_plate: bool = True
    reason: str = ""
    data_plates: frozenset[str] | None = None


class _Differs(Exception):
    """What is run together is not what is run alone."""


def try_together(
    model: Callable[..., Any], guide: Callable[..., Any], batch: Row, nesting: int, sums: Sums = NOTHING
) -> Trial:
    """Run two data x two particles at given latents, together and one by one, and compare the densities of every site.

    Programs that mix up dimensions (a softmax over dim 1, a view, plain batch norm) give numbers that depend on how
    many particles and data are computed together. So do programs that look at the whole batch. Three data are tried as
    well, since sizes may agree by chance.

    Args:
        model, guide: programs in evaluation mode.
        batch: data, of which the first two are used (one, twice, if there is one only).
        nesting: batch dimensions of the programs' own plates.
        sums: latent sites of which all values are run.
    """
    count = len(next(iter(batch.values())))
    first, second = ({k: v[i : i + 1] for k, v in batch.items()} for i in (0, min(1, count - 1)))
    with torch.no_grad(), pyro.validation_enabled(False):
        try:
            cells = _Cells(model, guide, first, second, nesting, sums)
        except Exception as error:
            line = first_line(error)
            return Trial(
                False, False, False, f"run with a single datum, it fails ({type(error).__name__}: {line[:200]})"
            )
        plates = cells.data_plates()
        reason = cells.compared(particles=True, data=2) or cells.compared(particles=True, data=3)
        if not reason:
            return Trial(data_plates=plates)
        if not cells.reproducible():
            reason = "it draws random numbers outside its sites, so that particles cannot be compared"
            return Trial(plate=False, reason=reason, data_plates=plates)
        apart = cells.compared(particles=False, data=2)
        alone = cells.compared(particles=True, data=1)
        if apart:
            return Trial(not alone, False, not alone, apart, plates)
        return Trial(False, True, not alone, reason, plates)


class _Cells:
    """Runs of single data at latents a and b, which are drawn once, and of them together.

    Particle 0 has a for the first datum and b for the second, particle 1 the other way round.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        first: Row,
        second: Row,
        nesting: int,
        sums: Sums,
    ) -> None:
        self.model, self.guide, self.nesting, self.sums = model, guide, nesting, sums
        self.rows = (first, second)
        drawn = [traced(guide, **row) for row in self.rows]
        self.a, self.b = ({n: s for n, s in t.nodes.items() if is_latent(s) and n not in sums.guide} for t in drawn)
        self._singles: dict[tuple[int, int], tuple[Trace, Trace]] = {}
        self.shared: set[str] = set()
        observed = [s for s in self._single(0, 0)[1].nodes.values() if is_observed(s) and not is_factor(s)]
        if not all(_per_datum(site) for site in observed):
            raise ValueError("the data plate has a size of its own")
        self.shared = {n for n, s in self.a.items() if not _per_datum(self._single(0, 0)[1].nodes.get(n, s))}
        self._single(1, 1)

    def data_plates(self) -> frozenset[str]:
        """Names of the model's plates at dim -1 that have as many places as there are data."""
        both = {k: torch.cat([row[k] for row in self.rows]) for k in self.rows[0]}
        try:
            two = self._run(both, self._values(2, False))[1]
        except Exception:  # told when it is run
            return frozenset()
        one = _sizes(self._single(0, 0)[1])
        return frozenset(name for name, size in _sizes(two).items() if size == 2 and one.get(name) == 1)

    def compared(self, *, particles: bool, data: int) -> str:
        """Why this many run together differ from single ones; empty if they do not."""
        rows = [self.rows[i % 2] for i in range(data)]
        batch = {k: torch.cat([row[k] for row in rows]) for k in rows[0]}
        what = " and ".join(["two particles"] * particles + [f"{data} data"] * (data > 1))
        try:
            traces = self._run(batch, self._values(data, particles), particles)
        except Exception as error:
            line = first_line(error)
            return f"run with {what} together, it fails ({type(error).__name__}: {line[:200]})"
        for which, trace in enumerate(traces):
            alone = self._single(0, 0)[which]
            for name, site in trace.nodes.items():
                if site["type"] != "sample" or name not in alone.nodes:
                    continue
                for k, n in self._looked_at(particles, data):
                    theirs = self._single(k, n)[which].nodes[name]
                    if not self._same(site, theirs, k, n, 2 if particles else 1, data):
                        return f"the density at site '{name}' of {what} run together is not that of each alone"
        return ""

    @staticmethod
    def _looked_at(particles: bool, data: int) -> tuple[tuple[int, int], ...]:
        """Particle and datum of the cells that are compared, with other latents each."""
        if particles:
            return ((0, 0), (1, 1)) if data > 1 else ((0, 0), (1, 0))
        return ((0, 0), (0, 1))

    def _single(self, particle: int, datum: int) -> tuple[Trace, Trace]:
        """A datum run alone, at the latents that it has in a particle: made once."""
        key = particle, datum
        if key not in self._singles:
            drawn = (self.a, self.b)[(particle + datum) % 2]
            values = {n: (self.a if n in self.shared else drawn)[n]["value"] for n in self.a}
            self._singles[key] = self._run(self.rows[datum], values)
        return self._singles[key]

    def reproducible(self) -> bool:
        """Whether a single datum at the same latents gives the same densities again."""
        again = self._run(self.rows[0], {n: s["value"] for n, s in self.a.items()})
        return all(
            self._same(site, old.nodes[name], 0, 0, 1, 1)
            for new, old in zip(again, self._single(0, 0), strict=True)
            for name, site in new.nodes.items()
            if site["type"] == "sample"
        )

    def _run(self, batch: Row, values: Mapping[str, Tensor], particles: bool = False) -> tuple[Trace, Trace]:
        """Traces of guide and model at given latents."""
        held = Trace()
        for name, site in self.a.items():
            held.add_node(name, **{**site, "value": values[name]})
        programs = [in_particle_plate(p, 2 if particles else 1, -(self.nesting + 1)) for p in (self.model, self.guide)]
        model, guide = with_all_values(*programs, self.sums, self.nesting)
        trace = traced(poutine.replay(guide, trace=held), **batch)
        return trace, traced(poutine.replay(model, trace=trace), **batch)

    def _values(self, data: int, particles: bool) -> dict[str, Tensor]:
        """Latents ``(K, *inner, N, *event)`` of the cells."""
        values = {}
        for name, site in self.a.items():
            events = site["fn"].event_dim
            a, b = site["value"], self.b[name]["value"]
            if name in self.shared:
                rows = [a, a]
            else:
                rank = max(1, a.dim() - events)
                a, b = (v.reshape((1,) * (rank + events - v.dim()) + v.shape) for v in (a, b))
                rows = [torch.cat([(a, b)[(i + k) % 2] for i in range(data)], rank - 1) for k in (0, 1)]
            if particles:
                batch = rows[0].dim() - events
                rows = [r.reshape((1,) * (self.nesting - batch) + r.shape) for r in rows]
                values[name] = torch.stack(rows)
            else:
                values[name] = rows[0]
        return values

    def _same(self, site: Site, alone: Site, k: int, n: int, particles: int, data: int) -> bool:
        try:
            theirs = self._cell(alone, 0, 0, 1, 1)
            ours = self._cell(site, k, n, particles, data)
        except Exception:  # codes that the model does not have; a flow that knows its density of its own draws only
            return not self._known(site["name"])  # if so, it is told elsewhere
        if ours.shape != theirs.shape:
            try:
                ours, theirs = torch.broadcast_tensors(ours, theirs)
            except RuntimeError:
                return False
        error = ERROR if ours.dtype != torch.float64 else ERROR * 1e-4
        largest = theirs[theirs.isfinite()].abs().max().item() if bool(theirs.isfinite().any()) else 0.0
        close = {"rtol": error, "atol": error * (1 + largest), "equal_nan": True}
        if torch.allclose(ours, theirs, **close):
            return True
        rounding = self._rounding(alone, theirs)
        return rounding is not None and torch.allclose(ours.clamp(theirs - rounding, theirs + rounding), ours, **close)

    def _rounding(self, alone: Site, theirs: Tensor) -> Tensor | None:
        """How much a density changes where the value moves by a few units of rounding; None: it has none, or jumps."""
        value = alone["value"]
        if not is_latent(alone) or not value.dtype.is_floating_point or elementwise_support(alone["fn"]) not in REAL:
            return None
        step = ULPS * torch.finfo(value.dtype).eps * (1 + value.abs().max())
        found = [self._cell({**alone, "value": value + sign * step}, 0, 0, 1, 1) for sign in (-1, 1)]
        change = torch.stack([(each - theirs).abs() for each in found]).amax(0)
        return change if bool((change < 1).all()) else None

    def _known(self, name: str) -> bool:
        """Whether the density at a site can be computed for every datum that was run alone."""
        try:
            for traces in self._singles.values():
                for trace in traces:
                    if name in trace.nodes:
                        self._cell(trace.nodes[name], 0, 0, 1, 1)
        except Exception:
            return False
        return True

    def _cell(self, site: Site, k: int, n: int, particles: int, data: int) -> Tensor:
        """Log-densities of one particle and datum: of every number, where a site's numbers are independent."""
        fn, events = factors(site["fn"])
        value = fn.log_factor if is_factor(site) and hasattr(fn, "log_factor") else fn.log_prob(site["value"])
        mask = site["mask"]
        if isinstance(mask, Tensor):
            value = torch.where(mask.reshape(*mask.shape, *(1,) * events), value, 0.0)
        elif mask is False:
            value = torch.zeros_like(value)
        rank = self.nesting + 1
        value = value.reshape((1,) * (rank + events - value.dim()) + value.shape)
        left = value.dim() - rank - events  # dimensions of what is summed over
        if left and not self.sums:
            return value.flatten()
        if value.shape[left] == particles:
            value = value.narrow(left, k, 1)
        if value.shape[left + rank - 1] == data and site["name"] not in self.shared:
            value = value.narrow(left + rank - 1, n, 1)
        return value


def _per_datum(site: Site) -> bool:
    """Whether a site, in a run with one datum, has a value per datum."""
    return any(f.dim == -1 and f.size == 1 for f in site["cond_indep_stack"])


def _sizes(trace: Trace) -> dict[str, int]:
    """Sizes of the plates at dim -1."""
    return {f.name: f.size for s in trace.nodes.values() for f in s.get("cond_indep_stack", ()) if f.dim == -1}
