"""Annealed importance sampling: log p(x) of every datum by chains from the guide to the posterior."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import torch
from tqdm.auto import tqdm

from pyro_vae.data import DataLike, Split
from pyro_vae.errors import InputError, positive, unknown
from pyro_vae.evaluation.annealing.chains import SETTLING, Schedule, StepSizes, Weights, forwards, temperatures, tune
from pyro_vae.evaluation.annealing.path import AnnealedPath, Densities, Start
from pyro_vae.evaluation.annealing.results import AnnealedLikelihood, Settings, log_mean_exp
from pyro_vae.evaluation.chunks import MEMORY_BUDGET, MOST, USED
from pyro_vae.evaluation.dimensions import measured_sites
from pyro_vae.evaluation.importance import CPU_CHUNK
from pyro_vae.evaluation.shared import SharedLatents
from pyro_vae.programs.session import evaluating
from pyro_vae.programs.shared import GivenShared, shared_of
from pyro_vae.programs.traces import repeat
from pyro_vae.recording import Compile, choose_mode
from pyro_vae.runtime import bytes_per_row, keep_freed_memory

TUNED = 20  # step sizes are found at every 20th temperature, but at 20 at least; in between they are interpolated
GRAPH_FROM, FULL_FROM = 200, 10_000  # evaluations of the densities


def ais(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    num_chains: int = 16,
    num_temperatures: int = 2000,
    num_leapfrog: int = 3,
    schedule: Schedule | Sequence[float] = "sigmoid",
    start: Start = "guide",
    memory_budget: int = MEMORY_BUDGET,
    vectorize: bool = True,
    seed: int = 0,
    device: str | torch.device | None = None,
    compile: Compile = "auto",
    progress: bool = False,
) -> AnnealedLikelihood:
    r"""Annealed importance sampling estimate of log p(x) of every datum, a lower bound in expectation.

    .. math:: f_t = q(z | x)^{1 - \beta_t} \, p(x, z)^{\beta_t}, \quad
              w = \prod_{t=1}^T \frac{f_t(z_{t-1})}{f_{t-1}(z_{t-1})}, \quad z_0 \sim q, \;
              z_t \sim T_t(\cdot | z_{t-1}), \quad \log p(x) \ge E \log \frac1C \sum_c w_c

    The transitions :math:`T_t` are Hamiltonian Monte Carlo, in unconstrained coordinates of the latents, all chains of
    all data of a chunk at once. Their step sizes, of each datum and each number, are found beforehand by chains of
    their own, which anneal through every 20th temperature so that 65% of the transitions are accepted, and then
    held: so E w = p(x) exactly, which adapting the counted chains to themselves would spoil.

    The cost is ``num_chains * num_temperatures * num_leapfrog`` gradients per datum, 96,000 as it stands: some hundred
    times that of 5000 importance samples. What it is worth, :func:`~pyro_vae.evaluation.bidirectional` tells.

    Latents w that all data share are held at one draw of the guide: the estimates are those of log p(x | w).

    Args:
        model, guide: Pyro programs whose per-datum sites are in a plate at dim -1; all latents continuous.
        data: as for :func:`~pyro_vae.evaluation.log_likelihood`.
        num_chains: C, of each datum.
        num_temperatures: T; the bound's gap falls with 1 / T.
        num_leapfrog: steps of a trajectory; at equal cost more temperatures are mostly worth more.
        schedule: beta_t, "sigmoid" or "linear", or ``num_temperatures + 1`` numbers that rise from 0 to 1.
        start: what the chains start from: "guide", or "prior", which needs no guide that covers the posterior, and many
            more temperatures.
        memory_budget: bytes that one evaluation of the densities may take; what a chain takes is measured.
        vectorize: chains in a plate left of the data plate; False: each datum is repeated instead.
        seed: of all draws; the global random state is left as it was.
        device: where to evaluate; the programs' device if None.
        compile: as for :func:`~pyro_vae.evaluation.log_likelihood`.
        progress: show a bar.

    Returns:
        estimates per datum (nats) with mean, standard error, effective sample sizes over chains, acceptance, warnings.

    Raises:
        InputError: for numbers that are not positive, unknown names, discrete latents or point masses, latents that all
            data share and the guide draws from a batch's data, a guide whose support does not cover the model's, data
            out of the likelihood's support.

    Source: Neal 2001, arXiv:physics/9803008; Wu et al. 2017, arXiv:1611.04273.

    Example:
        >>> import torch, pyro_vae
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> result = pyro_vae.ais(model, guide, x[:2], num_chains=4, num_temperatures=20, progress=False)
        >>> result.per_datum.shape, result.effective_sample_size.shape
        (torch.Size([2]), torch.Size([2]))
    """
    options = Annealing(num_chains, num_temperatures, num_leapfrog, schedule, start)
    positive("memory_budget", memory_budget)
    how = {"vectorize": vectorize, "bounds": start == "guide"}
    with evaluating(model, guide, data, seed, device, **how) as (pair, split):
        pair.refuse_point_masses()
        given = None
        if shared_of(pair, split):
            given = GivenShared(pair, split, vectorize=vectorize)
            given.draw()
            pair = given.pair
        sites = measured_sites(pair, split, memory_budget)
        path = AnnealedPath(pair, start, num_chains)
        with options.chunks(path, split, memory_budget, compile, progress) as chunks:
            weights = Weights.joined(
                [
                    forwards(densities, options.beta, sizes, num_leapfrog, on_transition)
                    for _, densities, sizes, on_transition in chunks
                ]
            )
        shared = None if given is None else SharedLatents(given.mean_kl(), log_mean_exp(weights.log_w).mean()[None])
        return AnnealedLikelihood(weights.log_w, weights.acceptance, options.settings, sites, split.name, shared)


Chunk = tuple[slice, Densities, StepSizes, Callable[[], object]]


@dataclass
class Annealing:
    """Checked options of annealing.

    Raises:
        InputError: as :func:`ais`.
    """

    num_chains: int
    num_temperatures: int
    num_leapfrog: int
    schedule: Schedule | Sequence[float]
    start: Start

    def __post_init__(self) -> None:
        positive("num_chains", self.num_chains)
        positive("num_leapfrog", self.num_leapfrog)
        if self.start not in get_args(Start):
            raise unknown("start", self.start, get_args(Start))
        self.beta: list[float] = temperatures(self.num_temperatures, self.schedule).tolist()
        every = max(1, min(TUNED, self.num_temperatures // TUNED))
        self.tuned = self.beta[1::every]

    @property
    def settings(self) -> Settings:
        """What a result says of them."""
        named = self.schedule if isinstance(self.schedule, str) else "given"
        return Settings(self.num_chains, self.num_temperatures, self.num_leapfrog, named, self.start)

    @contextmanager
    def chunks(
        self,
        path: AnnealedPath,
        split: Split,
        memory_budget: int,
        compile: Compile,
        progress: bool,
        directions: int = 1,
    ) -> Iterator[Iterator[Chunk]]:
        """Go through the data, with densities and step sizes of each chunk; a bar counts transitions."""
        keep_freed_memory()
        size = self._chunk_size(path, split, memory_budget)
        count = math.ceil(len(split) / size)
        each = SETTLING + len(self.tuned) + directions * self.num_temperatures
        evaluations = count * each * self.num_leapfrog
        path.recorder.mode = choose_mode(compile, evaluations, graph_from=GRAPH_FROM, full_from=FULL_FROM)

        def run(bar: tqdm) -> Iterator[Chunk]:
            for start in range(0, len(split), size):
                rows = slice(start, min(start + size, len(split)))
                densities = path.on(split.batch(rows))
                sizes = tune(densities, self.tuned, self.num_leapfrog, bar.update)
                yield rows, densities, sizes, bar.update

        with tqdm(total=count * each, unit="transition", mininterval=1.0, disable=not progress) as bar:
            yield run(bar)

    def _chunk_size(self, path: AnnealedPath, split: Split, memory_budget: int) -> int:
        """Data of a chunk, by what one datum with all its chains takes."""
        first = split.batch(split.largest())

        def evaluate(rows: int) -> None:
            path.on(repeat(first, rows)).draw()

        limit = USED * memory_budget
        cost = bytes_per_row(evaluate, first=1, last=64, most=limit)
        if cost > MOST * memory_budget:
            raise InputError(
                f"memory_budget {memory_budget} bytes is too small: {self.num_chains} chains of one datum take "
                f"{cost:.0f} bytes"
            )
        budget = limit if split.device.type != "cpu" else min(limit, CPU_CHUNK)
        most = path.pair.batch_size(min(int(budget / cost), len(split)))
        return math.ceil(len(split) / math.ceil(len(split) / most))  # chunks of equal size
