"""Importance weights of a pair of programs, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pyro_vae.evaluation.nodes import is_deterministic
from pyro_vae.evaluation.rebuilt import independent_of_particles, rebuilt_trace, site_tensors
from pyro_vae.evaluation.recorder import Recorder
from pyro_vae.pair import Pair
from pyro_vae.recording import Mode, Outputs, is_recorded
from pyro_vae.traces import TracePair, in_particle_plate, log_weights, repeat

__all__ = ["ImportanceSampler", "repeat"]

Batch = Mapping[str, Tensor]


class ImportanceSampler:
    """log p(x, z) - log q(z | x) for z ~ q(z | x), many particles at a time.

    A guide whose sites do not depend on one another's samples is run once per datum and then drawn from again; a
    hierarchical one is run once per chunk. Chunks are recorded as graphs, one for each shape, if the mode says so: with
    the same random numbers as eagerly.

    Args:
        pair: programs in evaluation mode, and how they are run.
        mode: off, graph or full.
    """

    def __init__(self, pair: Pair, mode: Mode = "off") -> None:
        self.pair = pair
        self.recorder = Recorder(("log_likelihood", "chunks"), nn.ModuleList([pair.model, pair.guide]), mode)
        self._templates: dict[tuple, Trace | None] = {}  # the guide's trace by shape, if it can be drawn from again

    def draws(self, batch: Batch) -> bool:
        """Whether there is anything to draw."""
        return not is_deterministic(self.pair.traces(batch))

    def log_weights(self, batch: Batch, num_particles: int, chunk: int) -> Iterator[Tensor]:
        """log w in chunks ``(k, N)`` of at most ``chunk`` particles, ``num_particles`` in all."""
        if self.pair.repeated:
            for start in range(0, num_particles, chunk):
                k = min(chunk, num_particles - start)
                yield self.recorder(f"repeated {k}", lambda k=k, **b: self._weights(b, k), batch)[0]
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

    def _weights(self, batch: Batch, particles: int) -> Outputs:
        return (log_weights(self.pair.traces(batch, particles), scaled=False),)

    def _first(self, batch: Batch, chunk: int, shape: tuple) -> Outputs:
        """log w of fresh particles and, if the guide can be drawn from again, its distributions' tensors."""
        pair = self.pair.traces(batch, chunk)
        again = independent_of_particles(pair)
        sites = [q for q, _ in pair.latent().values()] if again else []
        log_w, parameters = log_weights(pair, scaled=False), [t for site in sites for t in site_tensors(site)]
        if not is_recorded(log_w):  # of this batch: distributions may hold plain numbers that were taken from it
            self._templates[shape] = pair.counted_guide() if again else None
        return log_w, *parameters

    def _again(self, given: Batch, chunk: int, shape: tuple) -> Outputs:
        """log w of particles drawn from the guide's distributions, given as tensors; only the model is run."""
        batch = {k: v for k, v in given.items() if not k.startswith("guide parameter ")}
        parameters = iter([v for k, v in given.items() if k.startswith("guide parameter ")])
        template = self._templates[shape]
        assert template is not None
        guide = rebuilt_trace(template, parameters, lambda _, fn: fn.sample())
        particle_dim = -(self.pair.nesting + 1)
        model = in_particle_plate(self.pair.model, chunk, particle_dim)
        trace = prune_subsample_sites(poutine.trace(poutine.replay(model, trace=guide)).get_trace(**batch))
        size = next(f.size for s in trace.nodes.values() for f in s.get("cond_indep_stack", ()) if f.dim == -1)
        known = {"data_plates": self.pair.data_plates, "left_out": self.pair.left_out}
        pair = TracePair(trace, guide, chunk, particle_dim, size, size, **known)
        return (log_weights(pair, scaled=False),)
