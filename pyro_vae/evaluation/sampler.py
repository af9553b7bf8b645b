"""Importance weights of a pair of programs, chunk by chunk."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_vae.data import Split
from pyro_vae.distributions import counted_fraction, has_mask
from pyro_vae.evaluation.nodes import is_deterministic
from pyro_vae.program import Program
from pyro_vae.recording import Mode, NotRecordable, Outputs, Recording
from pyro_vae.traces import TracePair, in_particle_plate, is_latent, log_weights, trace_pair

logger = logging.getLogger(__name__)

Batch = Mapping[str, Tensor]
ROWS = 100  # data whose masks are looked at together
_CACHES = {"_inv", "_cached_x_y"}  # of torch's transforms: what they have seen, not what they are


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
        self.nesting, self.vectorize, self.mode = max_plate_nesting, vectorize, mode
        self._both = nn.ModuleList([model, guide])
        self._recordings: dict[tuple, Recording | None] = {}
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
        log_w, *parameters = self._run("first", shape, lambda **b: self._first(b, chunk, shape), batch)
        yield log_w[:num_particles]
        done = chunk
        given = {f"guide parameter {i}": t for i, t in enumerate(parameters)} | dict(batch)
        while done < num_particles:
            if self._templates[shape] is not None:
                (log_w,) = self._run("again", shape, lambda **g: self._again(g, chunk, shape), given)
            else:
                (log_w,) = self._run("first", shape, lambda **b: self._first(b, chunk, shape), batch)
            yield log_w[: num_particles - done]
            done += chunk

    def _repeated(self, batch: Batch, num_particles: int, chunk: int) -> Iterator[Tensor]:
        def weights(k: int, **batch: Tensor) -> Outputs:
            return (log_weights(self._pair(repeat(batch, k), 1), scaled=False).reshape(-1, k).T,)  # (k, N)

        for start in range(0, num_particles, chunk):
            k = min(chunk, num_particles - start)
            shape = (k, *(v.shape for v in batch.values()))
            yield self._run("repeated", shape, lambda k=k, **b: weights(k, **b), batch)[0]

    def _pair(self, batch: Batch, particles: int) -> TracePair:
        return trace_pair(self.model, self.guide, (), batch, particles, self.nesting)

    def _first(self, batch: Batch, chunk: int, shape: tuple) -> Outputs:
        """log w of fresh particles and, if the guide can be drawn from again, its distributions' tensors."""
        pair = self._pair(batch, chunk)
        again = _independent_of_particles(pair)
        self._templates[shape] = pair.guide if again else None
        sites = [q for q, _ in pair.latent().values()] if again else []
        return (log_weights(pair, scaled=False), *(t for site in sites for t in _tensors(_own(site))))

    def _again(self, given: Batch, chunk: int, shape: tuple) -> Outputs:
        """log w of particles drawn from the guide's distributions, given as tensors; only the model is run."""
        batch = {k: v for k, v in given.items() if not k.startswith("guide parameter ")}
        parameters = iter([v for k, v in given.items() if k.startswith("guide parameter ")])
        template = self._templates[shape]
        assert template is not None
        guide = Trace()
        for name, site in template.nodes.items():
            if is_latent(site):
                fn, scale, mask = _rebuilt(_own(site), parameters)
                site = {**site, "fn": fn, "scale": scale, "mask": mask, "value": fn.sample()}
            guide.add_node(name, **site)
        particle_dim = -(self.nesting + 1)
        model = in_particle_plate(self.model, chunk, particle_dim)
        trace = poutine.trace(poutine.replay(model, trace=guide)).get_trace(**batch)
        size = len(batch["x"])
        return (log_weights(TracePair(trace, guide, chunk, particle_dim, size, size), scaled=False),)

    def _run(self, name: str, shape: tuple, function: Callable[..., Outputs], inputs: Batch) -> Outputs:
        """The function's outputs, by its recording for inputs of this shape where there is one."""
        if self.mode == "off":
            return function(**inputs)
        key = (name, shape)
        if key not in self._recordings:
            self._recordings[key] = self._record(name, function, inputs)
        recording = self._recordings[key]
        return function(**inputs) if recording is None else recording(inputs)[0]

    def _record(self, name: str, function: Callable[..., Outputs], inputs: Batch) -> Recording | None:
        try:
            templates = dict(self._templates)
            recording = Recording(self._both, function, inputs, differentiate=False)
            self._templates = templates  # not the recording's, whose tensors hold no numbers
            recording.check(inputs, 1e-4)
            if self.mode == "full" and not any(known == name for known, _ in self._recordings):
                recording.compile(inputs, 1e-4)
            return recording
        except NotRecordable as error:
            self.mode = "off"
            logger.warning("log_likelihood runs eagerly, its chunks cannot be recorded: %s", error)
            return None


def repeat(batch: Batch, times: int) -> dict[str, Tensor]:
    """Each datum as often as asked, its copies one after another."""
    return {name: value.repeat_interleave(times, 0) for name, value in batch.items()}


def _independent_of_particles(pair: TracePair) -> bool:
    """Whether the guide's distributions are the same for all particles, so that they can be drawn from again.

    What was computed from another site's samples has the plate of particles as its first dimension. In doubt the
    answer is no: then the guide is run again, which is right for any guide.
    """
    if pair.guide_factors():
        return False
    if pair.num_particles == 1:
        return len(pair.latent()) == 1
    return all(_same_for_all(_own(q), pair.num_particles) for q, _ in pair.latent().values())


def _own(site: dict[str, Any]) -> tuple:
    """What of a site may depend on the data."""
    return site["fn"], site["scale"], site["mask"]


def _same_for_all(value: Any, particles: int) -> bool:
    """Whether nothing in a distribution (or in its transforms, in lists, in wrapped ones) differs between particles."""
    if isinstance(value, Tensor):
        dim = next((i for i, size in enumerate(value.shape) if size != 1), None)
        return dim is None or value.shape[dim] != particles or value.stride(dim) == 0
    if isinstance(value, (list, tuple)):
        return all(_same_for_all(v, particles) for v in value)
    if isinstance(value, _MADE_OF_TENSORS):
        return all(_same_for_all(v, particles) for k, v in vars(value).items() if k not in _CACHES)
    return value is None or isinstance(value, (bool, int, float, str))


_MADE_OF_TENSORS = (torch.distributions.Distribution, torch.distributions.Transform)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors that a distribution is made of, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (torch.SymFloat, torch.SymInt, torch.SymBool)):
        raise NotRecordable("a distribution of the guide holds a number taken from a tensor")
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _tensors(v)
    elif isinstance(value, _MADE_OF_TENSORS):
        for k, v in vars(value).items():
            if k not in _CACHES:
                yield from _tensors(v)


def _rebuilt(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same distribution made of other tensors, in the order of :func:`_tensors`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(_rebuilt(v, tensors) for v in value)
    if isinstance(value, _MADE_OF_TENSORS):
        other = copy.copy(value)
        for k, v in vars(value).items():
            other.__dict__[k] = None if k in _CACHES else _rebuilt(v, tensors)
        return other
    return value
