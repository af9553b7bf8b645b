"""Test log-likelihood of any Pyro model by importance sampling from its guide."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_vae.data import DataLike
from pyro_vae.errors import InputError, positive
from pyro_vae.evaluation.chunks import MEMORY_BUDGET, MOST, USED, Recorder
from pyro_vae.evaluation.dimensions import measured_sites
from pyro_vae.evaluation.guide_cache import independent_of_particles, rebuilt_trace, site_tensors
from pyro_vae.evaluation.results import LogLikelihood
from pyro_vae.evaluation.shared import SharedLatents
from pyro_vae.programs.densities import log_weights
from pyro_vae.programs.enumeration import alone_with_all_values
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.session import evaluating
from pyro_vae.programs.shared import GivenShared, shared_of
from pyro_vae.programs.traces import TracePair, in_particle_plate, is_deterministic, repeat, traced
from pyro_vae.recording import Compile, Mode, Outputs, choose_mode, is_recorded
from pyro_vae.runtime import bytes_per_row, derived_seed, keep_freed_memory

logger = logging.getLogger(__name__)

Batch = Mapping[str, Tensor]


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
        again = not pair.sums.guide and independent_of_particles(pair)
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
        model = alone_with_all_values(model, self.pair.sums, self.pair.nesting)
        trace = traced(poutine.replay(model, trace=guide), **batch)
        size = next(f.size for s in trace.nodes.values() for f in s.get("cond_indep_stack", ()) if f.dim == -1)
        known = {"data_plates": self.pair.data_plates, "left_out": self.pair.left_out, "sums": self.pair.sums}
        pair = TracePair(trace, guide, chunk, particle_dim, size, size, **known)
        return (log_weights(pair, scaled=False),)


CPU_CHUNK = 24 * 2**20  # bytes of a chunk on a CPU: larger ones only fall out of its caches
GRAPH_FROM, FULL_FROM = 1000, 10_000  # chunks: a recording saves about half a millisecond each, the compiler more


def log_likelihood(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    num_particles: int = 5000,
    num_global: int = 10,
    memory_budget: int = MEMORY_BUDGET,
    vectorize: bool = True,
    seed: int = 0,
    device: str | torch.device | None = None,
    compile: Compile = "auto",
    progress: bool = False,
    divided: bool = False,
) -> LogLikelihood:
    r"""Importance-weighted bound on log p(x) of every datum; it rises to log p(x) with K.

    .. math:: \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k | x)}, \qquad z_k \sim q(z | x)

    Works from the two programs' traces, so for plain Pyro functions as well as for modules. The sum is a running
    logsumexp over chunks of particles. A guide whose sites do not depend on one another's samples is run once per
    datum and then drawn from again; a hierarchical one is run once per chunk.

    Latents w that all data share (weights with priors, outside the data plate) are drawn from the guide, and the bounds
    given them are averaged: :math:`E_{q(w)}[\log p(x \mid w)]` of each datum, a lower bound on its predictive
    :math:`\log E_{q(w)}[p(x \mid w)]`. The KL of w, one for all data, is told apart.

    Args:
        model, guide: Pyro programs whose per-datum sites are in a plate at dim -1.
        data: a Split, a dict of tensors, a tensor ``x`` ``(num_data, *shape)``, or Data (its test part).
        num_particles: K. Where the guide has nothing to draw (no latents, or point masses at every latent site, as of
            codes) all particles are the same: one is taken, and the log says so.
        num_global: draws of the latents that all data share, K particles for each of them.
        memory_budget: bytes that the tensors of one chunk may take; what a particle takes is measured on a small run.
        vectorize: particles in a plate left of the data plate. Programs for which that gives other numbers (tried on
            two data) run with each datum repeated instead, and the log says why; False: all do.
        seed: of the draws; the global random state is left as it was.
        device: where to evaluate; the programs' device if None.
        compile: how chunks are run. "off": eagerly; "graph": recorded once as a graph of tensor operations, the same
            random numbers; "full": recorded and compiled; "auto": by the number of chunks. Programs that cannot be
            recorded run eagerly, and the log says why.
        progress: show a bar.
        divided: among the processes of ``torch.distributed``, which all call this: each measures its part of the
            data, and all are given the whole. Every part has draws of its own, so that these are other draws than one
            process's.

    Returns:
        per-datum estimates (nats) with mean, standard error, bits per dimension, effective sample sizes, Pareto k-hat.

    Raises:
        InputError: for non-positive particles or budget, data out of the likelihood's support, sites that do
            not match, latents shared by all data that the guide draws from a batch's data, and pairs whose weights are
            no bound: point masses at continuous latents, auxiliary sites of the guide without a reverse model,
            densities against probabilities.

    Source: Burda et al. 2016, arXiv:1509.00519, section 5 (K = 5000).

    Example:
        >>> import torch, pyro_vae
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> result = pyro_vae.log_likelihood(model, guide, x, num_particles=100, progress=False)
        >>> result.per_datum.shape, result.num_particles
        (torch.Size([20]), 100)
    """
    for name, count in (("num_particles", num_particles), ("num_global", num_global), ("memory_budget", memory_budget)):
        positive(name, count)
    if divided and not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise InputError(
            "divided is for the processes of torch.distributed, which is not initialized: start by torchrun"
        )
    with evaluating(model, guide, data, seed, device, vectorize=vectorize) as (pair, split):
        pair.refuse_point_masses()
        keep_freed_memory()
        first = split.batch(split.largest())
        given = GivenShared(pair, split, vectorize=vectorize) if shared_of(pair, split) else None
        if divided and given is not None:
            raise InputError(f"divided: draws of {given.names} are shared by all data, and processes draw their own")
        pair = pair if given is None else given.pair
        num_global = 1 if given is None else num_global
        sampler = ImportanceSampler(pair)
        sites = measured_sites(pair, split, memory_budget)
        if not sampler.draws(first):
            if num_particles > 1:
                logger.info("one particle is taken: the guide draws nothing, all %d would be the same", num_particles)
            num_particles = 1
        limit = USED * memory_budget
        cost = bytes_per_row(lambda rows: next(sampler.log_weights(first, rows, rows)), most=limit)
        if cost > MOST * memory_budget:
            raise InputError(
                f"memory_budget {memory_budget} bytes is too small: one particle of one datum takes {cost:.0f} bytes"
            )
        rows = max(1, int((min(limit, CPU_CHUNK) if split.device.type == "cpu" else limit) / cost))
        chunk = math.ceil(num_particles / math.ceil(num_particles / rows))
        data_cost = bytes_per_row(lambda n: next(sampler.log_weights(repeat(first, n), 1, 1)), most=limit)  # with guide
        batch_size = pair.batch_size(min(rows // chunk, int(limit / data_cost), len(split)))
        part = _part_of(len(split), seed) if divided else range(len(split))
        chunks = num_global * math.ceil(len(part) / batch_size) * math.ceil(num_particles / chunk)
        sampler.recorder.mode = choose_mode(compile, chunks, graph_from=GRAPH_FROM, full_from=FULL_FROM)
        # made before the chunks: small tensors that stay among large ones that go would split the heap
        results = torch.empty(num_global, 3, len(part), dtype=torch.float64, device=split.device)
        with tqdm(total=num_global * len(part), unit="datum", disable=not progress) as bar:
            for of_draw in results:
                if given is not None:
                    given.draw()
                done = 0
                for batch in split.batches(batch_size, part):
                    running = _running(sampler.log_weights(batch, num_particles, chunk), num_particles)
                    n = len(running[0])
                    for result, values in zip(of_draw, running, strict=True):
                        result[done : done + n] = values
                    done += n
                    bar.update(n)
        results = _joined(results.cpu()) if divided else results.cpu()
        bound, size, pareto_k = results.unbind(1)  # (G, N) each
        shared = None if given is None else SharedLatents(given.mean_kl(), bound.mean(1))
        pareto_k = pareto_k[0] if given is None else pareto_k.nan_to_num(-torch.inf).amax(0)
        pareto_k = pareto_k.masked_fill(pareto_k == -torch.inf, torch.nan)
        return LogLikelihood(
            bound.mean(0), size.mean(0), pareto_k, num_particles, sites, split.name, pair.doubts, shared
        )


def _part_of(count: int, seed: int) -> range:
    """This process's part of so many data, with draws of its own."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.manual_seed(derived_seed(seed, "process", rank))  # inside a private seed
    return range(count)[count * rank // world : count * (rank + 1) // world]


def _joined(results: Tensor) -> Tensor:
    """The results ``(G, 3, n)`` of all processes, one after another along the data."""
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, results)
    return torch.cat(parts, -1)


def _running(chunks: Iterator[Tensor], num_particles: int) -> tuple[Tensor, Tensor, Tensor]:
    """log mean w, effective sample size and k-hat, ``(N,)`` float64, of log w in chunks ``(k, N)``."""
    log_sum = log_square_sum = tail = None
    drawn = 0
    for log_w in chunks:
        log_w = log_w.double()
        parts = log_w.logsumexp(0), (2 * log_w).logsumexp(0)
        log_sum = parts[0] if log_sum is None else torch.logaddexp(log_sum, parts[0])
        log_square_sum = parts[1] if log_square_sum is None else torch.logaddexp(log_square_sum, parts[1])
        tail = largest(log_w, num_particles, tail)
        drawn += len(log_w)
    assert log_sum is not None and log_square_sum is not None and tail is not None and drawn == num_particles
    return log_sum - math.log(drawn), (2 * log_sum - log_square_sum).exp(), pareto_k_of_tail(tail)
