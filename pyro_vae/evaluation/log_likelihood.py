"""Test log-likelihood of any Pyro model by importance sampling from its guide."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation.memory import bytes_per_row
from pyro_vae.evaluation.results import LogLikelihood
from pyro_vae.evaluation.session import evaluating, positive
from pyro_vae.program import Program
from pyro_vae.runtime import keep_freed_memory
from pyro_vae.traces import TracePair, in_particle_plate, is_latent, log_weights, trace_pair

MEMORY_BUDGET = 512 * 2**20
CPU_CHUNK = 24 * 2**20  # bytes of a chunk on a CPU: larger ones only fall out of its caches

_CACHES = {"_inv", "_cached_x_y"}  # of torch's transforms: what they have seen, not what they are


def log_likelihood(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data | Split | Mapping[str, Tensor] | Tensor,
    *,
    num_particles: int = 5000,
    memory_budget: int = MEMORY_BUDGET,
    vectorize: bool = True,
    max_plate_nesting: int = 1,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> LogLikelihood:
    r"""Importance-weighted bound on log p(x) of every datum; it rises to log p(x) with K.

    .. math:: \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k | x)}, \qquad z_k \sim q(z | x)

    Works from the two programs' traces, so for plain Pyro functions as well as for modules. The sum is a running
    logsumexp over chunks of particles. A guide whose sites do not depend on one another's samples is run once per
    datum and then drawn from again; a hierarchical one is run once per chunk.

    Args:
        model, guide: Pyro programs whose per-datum sites are in a plate at dim -1.
        data: a Split, a dict of tensors, a tensor ``x`` ``(num_data, *shape)``, or Data (its test part).
        num_particles: K.
        memory_budget: bytes that the tensors of one chunk may take; what a particle takes is measured on a small run.
        vectorize: particles in a plate left of the data plate (the program must broadcast); False: each datum is
            repeated instead, for programs that cannot.
        max_plate_nesting: batch dimensions of the programs' own plates.
        seed: of the draws; the global random state is left as it was.
        device: where to evaluate; the programs' device if None.
        progress: show a bar.

    Returns:
        per-datum estimates (nats) with mean, standard error, bits per dimension, effective sample sizes.

    Raises:
        InputError: for non-positive particles or budget, data out of the likelihood's support, sites that do
            not match, latents shared by all data.

    Source: Burda et al. 2016, arXiv:1509.00519, section 5 (K = 5000).
    """
    positive("num_particles", num_particles)
    positive("memory_budget", memory_budget)
    with evaluating(model, guide, data, seed, device) as (model, guide, split):
        keep_freed_memory()
        first = split.batch(slice(0, 1))
        sampler = _Sampler(model, guide, max_plate_nesting, vectorize)
        dimensions = sampler.dimensions(first)
        cost = bytes_per_row(lambda rows: next(sampler.log_weights(first, rows, rows)))
        budget_rows = int(0.8 * memory_budget / cost)
        if budget_rows < 1:
            raise InputError(
                f"memory_budget {memory_budget} bytes is too small: one particle of one datum takes {cost:.0f} bytes"
            )
        rows = min(budget_rows, max(1, int(CPU_CHUNK / cost))) if split.device.type == "cpu" else budget_rows
        chunk = math.ceil(num_particles / math.ceil(num_particles / rows))
        data_cost = bytes_per_row(lambda n: next(sampler.log_weights(_repeat(first, n), 1, 1)))  # with the guide's part
        batch_size = max(1, min(rows // chunk, int(0.8 * memory_budget / data_cost), len(split)))
        # made before the chunks: small tensors that stay among large ones that go would split the heap
        results = torch.empty(2, len(split), dtype=torch.float64, device=split.device)
        done = 0
        with tqdm(total=len(split), unit="datum", disable=not progress) as bar:
            for batch in split.batches(batch_size):
                running = _running(sampler.log_weights(batch, num_particles, chunk), num_particles)
                n = len(running[0])
                results[0, done : done + n], results[1, done : done + n] = running
                done += n
                bar.update(n)
        return LogLikelihood(*results.cpu(), num_particles, dimensions, split.name)


def _running(chunks: Iterator[Tensor], num_particles: int) -> tuple[Tensor, Tensor]:
    """log mean w and the effective sample size, ``(N,)`` float64, of log w in chunks ``(k, N)``."""
    log_sum = log_square_sum = None
    drawn = 0
    for log_w in chunks:
        log_w = log_w.double()
        parts = log_w.logsumexp(0), (2 * log_w).logsumexp(0)
        log_sum = parts[0] if log_sum is None else torch.logaddexp(log_sum, parts[0])
        log_square_sum = parts[1] if log_square_sum is None else torch.logaddexp(log_square_sum, parts[1])
        drawn += len(log_w)
    assert log_sum is not None and log_square_sum is not None and drawn == num_particles
    return log_sum - math.log(drawn), (2 * log_sum - log_square_sum).exp()


class _Sampler:
    """Importance weights of a pair of programs, in chunks of particles."""

    def __init__(self, model: Program, guide: Program, max_plate_nesting: int, vectorize: bool) -> None:
        self.model, self.guide = model, guide
        self.nesting, self.vectorize = max_plate_nesting, vectorize

    def dimensions(self, batch: Mapping[str, Tensor]) -> int:
        """Values in one datum, over the data sites."""
        sites = [s for s in self._pair(batch, 1).observed().values() if not isinstance(s["fn"], dist.Unit)]  # factors
        inner = [[f.size for f in s["cond_indep_stack"] if f.vectorized and f.dim != -1] for s in sites]
        return sum(math.prod((*s["fn"].event_shape, *sizes)) for s, sizes in zip(sites, inner, strict=True))

    def log_weights(self, batch: Mapping[str, Tensor], num_particles: int, chunk: int) -> Iterator[Tensor]:
        """log w in chunks ``(k, N)`` of at most ``chunk`` particles, ``num_particles`` in all."""
        if not self.vectorize:
            yield from self._repeated(batch, num_particles, chunk)
            return
        pair = self._pair(batch, chunk)
        yield log_weights(pair, scaled=False)[:num_particles]
        done, again = chunk, _independent_of_particles(pair)
        while done < num_particles:
            pair = self._drawn_again(pair, batch) if again else self._pair(batch, chunk)
            yield log_weights(pair, scaled=False)[: num_particles - done]
            done += chunk

    def _repeated(self, batch: Mapping[str, Tensor], num_particles: int, chunk: int) -> Iterator[Tensor]:
        for start in range(0, num_particles, chunk):
            k = min(chunk, num_particles - start)
            yield log_weights(self._pair(_repeat(batch, k), 1), scaled=False).reshape(-1, k).T  # (k, N)

    def _pair(self, batch: Mapping[str, Tensor], particles: int) -> TracePair:
        return trace_pair(self.model, self.guide, (), batch, particles, self.nesting)

    def _drawn_again(self, pair: TracePair, batch: Mapping[str, Tensor]) -> TracePair:
        """New draws from the guide's distributions, which the batch alone determines; only the model is run."""
        guide = Trace()
        for name, site in pair.guide.nodes.items():
            guide.add_node(name, **({**site, "value": site["fn"].sample()} if is_latent(site) else site))
        model = in_particle_plate(self.model, pair.num_particles, pair.particle_dim)
        trace = poutine.trace(poutine.replay(model, trace=guide)).get_trace(**batch)
        return TracePair(trace, guide, pair.num_particles, pair.particle_dim, pair.size, pair.full_size)


def _repeat(batch: Mapping[str, Tensor], times: int) -> dict[str, Tensor]:
    """Each datum as often as asked, its copies one after another."""
    return {name: value.repeat_interleave(times, 0) for name, value in batch.items()}


def _independent_of_particles(pair: TracePair) -> bool:
    """Whether the guide's distributions are the same for all particles, so that they can be drawn from again.

    What was computed from another site's samples has the plate of particles as its first dimension. In doubt the
    answer is no: then the guide is run again, which is right for any guide.
    """
    if pair.num_particles == 1:
        return len(pair.latent()) == 1
    return all(_same_for_all(q["fn"], pair.num_particles) for q, _ in pair.latent().values())


def _same_for_all(value: Any, particles: int) -> bool:
    """Whether nothing in a distribution (or in its transforms, in lists, in wrapped ones) differs between particles."""
    if isinstance(value, Tensor):
        dim = next((i for i, size in enumerate(value.shape) if size != 1), None)
        return dim is None or value.shape[dim] != particles or value.stride(dim) == 0
    if isinstance(value, (list, tuple)):
        return all(_same_for_all(v, particles) for v in value)
    if isinstance(value, (torch.distributions.Distribution, torch.distributions.Transform)):
        return all(_same_for_all(v, particles) for k, v in vars(value).items() if k not in _CACHES)
    return value is None or isinstance(value, (bool, int, float, str))
