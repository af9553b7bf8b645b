"""Importance weights of a pair of programs, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro.distributions as dist
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_vae.data import Split
from pyro_vae.distributions import counted_fraction, has_mask
from pyro_vae.evaluation.nodes import is_deterministic
from pyro_vae.evaluation.rebuilt import independent_of_particles, rebuilt_trace, site_tensors
from pyro_vae.evaluation.recorder import Recorder
from pyro_vae.program import Program
from pyro_vae.recording import Mode, Outputs, is_recorded
from pyro_vae.traces import TracePair, in_particle_plate, log_weights, trace_pair

Batch = Mapping[str, Tensor]
ROWS = 100  # data whose masks are looked at together


class ImportanceSampler:
    """log p(x, z) - log q(z | x) for z ~ q(z | x), many particles at a time.

    A guide whose sites do not depend on one another's samples is run once per datum and then drawn from again; a
    hierarchical one is run once per chunk. Chunks are recorded as graphs, one for each shape, if the mode says so: with
    the same random numbers as eagerly.

    Args:
        model, guide: programs, in evaluation mode.
        max_plate_nesting: batch dimensions of the programs' own plates.
        vectorize: particles in a plate; False: each datum is repeated.
        mode: off, graph or full.
    """

    def __init__(
        self, model: Program, guide: Program, max_plate_nesting: int, vectorize: bool, mode: Mode = "off"
    ) -> None:
        self.model, self.guide = model, guide
        self.nesting, self.vectorize = max_plate_nesting, vectorize
        self.recorder = Recorder(("log_likelihood", "chunks"), nn.ModuleList([model, guide]), mode)
        self._templates: dict[tuple, Trace | None] = {}  # the guide's trace by shape, if it can be drawn from again

    def dimensions(self, split: Split) -> float:
        """Values in one datum, over the data sites; those that a mask leaves out do not count (mean over the data)."""

        def of(batch: Batch, fraction: Callable[[Any], float]) -> float:
            sites = [
                s for s in self._pair(batch, 1).observed().values() if not isinstance(s["fn"], dist.Unit)
            ]  # factors
            inner = [[f.size for f in s["cond_indep_stack"] if f.vectorized and f.dim != -1] for s in sites]
            sizes = [math.prod((*s["fn"].event_shape, *plates)) for s, plates in zip(sites, inner, strict=True)]
            return sum(fraction(s["fn"]) * size for s, size in zip(sites, sizes, strict=True))

        first = split.batch(slice(0, 1))
        if not of(first, has_mask):
            return of(first, lambda fn: 1)
        batches = split.batches(ROWS)
        return sum(of(batch, counted_fraction) * len(batch["x"]) for batch in batches) / len(split)

    def draws(self, batch: Batch) -> bool:
        """Whether there is anything to draw."""
        return not is_deterministic(self._pair(batch, 1))

    def log_weights(self, batch: Batch, num_particles: int, chunk: int) -> Iterator[Tensor]:
        """log w in chunks ``(k, N)`` of at most ``chunk`` particles, ``num_particles`` in all."""
        if not self.vectorize:
            yield from self._repeated(batch, num_particles, chunk)
            return
        shape = (chunk, *(v.shape for v in batch.values()))
        log_w, *parameters = self.recorder(f"first {chunk}", lambda **b: self._first(b, chunk, shape), batch)
        yield log_w[:num_particles]
        done = chunk
        given = {f"guide parameter {i}": t for i, t in enumerate(parameters)} | dict(batch)
        while done < num_particles:
            if self._templates[shape] is not None:
                (log_w,) = self.recorder(f"again {chunk}", lambda **g: self._again(g, chunk, shape), given)
            else:
                (log_w,) = self.recorder(f"first {chunk}", lambda **b: self._first(b, chunk, shape), batch)
            yield log_w[: num_particles - done]
            done += chunk

    def _repeated(self, batch: Batch, num_particles: int, chunk: int) -> Iterator[Tensor]:
        def weights(k: int, **batch: Tensor) -> Outputs:
            return (log_weights(self._pair(repeat(batch, k), 1), scaled=False).reshape(-1, k).T,)  # (k, N)

        for start in range(0, num_particles, chunk):
            k = min(chunk, num_particles - start)
            yield self.recorder(f"repeated {k}", lambda k=k, **b: weights(k, **b), batch)[0]

    def _pair(self, batch: Batch, particles: int) -> TracePair:
        return trace_pair(self.model, self.guide, (), batch, particles, self.nesting)

    def _first(self, batch: Batch, chunk: int, shape: tuple) -> Outputs:
        """log w of fresh particles and, if the guide can be drawn from again, its distributions' tensors."""
        pair = self._pair(batch, chunk)
        again = independent_of_particles(pair)
        sites = [q for q, _ in pair.latent().values()] if again else []
        log_w, parameters = log_weights(pair, scaled=False), [t for site in sites for t in site_tensors(site)]
        if not is_recorded(log_w):  # of this batch: distributions may hold plain numbers that were taken from it
            self._templates[shape] = pair.guide if again else None
        return log_w, *parameters

    def _again(self, given: Batch, chunk: int, shape: tuple) -> Outputs:
        """log w of particles drawn from the guide's distributions, given as tensors; only the model is run."""
        batch = {k: v for k, v in given.items() if not k.startswith("guide parameter ")}
        parameters = iter([v for k, v in given.items() if k.startswith("guide parameter ")])
        template = self._templates[shape]
        assert template is not None
        guide = rebuilt_trace(template, parameters, lambda _, fn: fn.sample())
        particle_dim = -(self.nesting + 1)
        model = in_particle_plate(self.model, chunk, particle_dim)
        trace = poutine.trace(poutine.replay(model, trace=guide)).get_trace(**batch)
        size = len(batch["x"])
        return (log_weights(TracePair(trace, guide, chunk, particle_dim, size, size), scaled=False),)


def repeat(batch: Batch, times: int) -> dict[str, Tensor]:
    """Each datum as often as asked, its copies one after another."""
    return {name: value.repeat_interleave(times, 0) for name, value in batch.items()}
