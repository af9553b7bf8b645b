"""Posterior draws and log-likelihoods of any pair for ArviZ."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.data import DataLike
from pyro_vae.errors import InputError, positive
from pyro_vae.evaluation.importance import pareto_k
from pyro_vae.programs.densities import log_weights_by_site
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.session import anything_to_draw, evaluating
from pyro_vae.programs.sites import Site, data_first, is_factor
from pyro_vae.programs.traces import TracePair
from pyro_vae.runtime import bytes_per_row

if TYPE_CHECKING:
    from arviz import InferenceData
    from xarray import DataTree

logger = logging.getLogger(__name__)


@dataclass
class Particles:
    """Draws of the latents of N data.

    Attributes:
        latents: by site of the model, ``(k, N, *inner plates, *event)``.
        log_weights: log p(x, z) - log q(z | x), nats, ``(k, N)`` float64.
        log_likelihood: log p(x | z) by data site, nats, ``(k, N)`` float64.
    """

    latents: dict[str, Tensor]
    log_weights: Tensor
    log_likelihood: dict[str, Tensor]

    def map(self, function: Callable[[Tensor], Tensor]) -> Particles:
        """Apply a function to every tensor."""
        latents = {name: function(value) for name, value in self.latents.items()}
        likelihood = {name: function(value) for name, value in self.log_likelihood.items()}
        return Particles(latents, function(self.log_weights), likelihood)

    def cpu(self) -> Particles:
        """The same on the CPU."""
        return self.map(lambda value: value.cpu())


def joined(parts: Sequence[Particles], dim: int) -> Particles:
    """Particles of the same data (dim 0), or of different ones (dim 1), as one."""
    return Particles(
        {name: torch.cat([p.latents[name] for p in parts], dim) for name in parts[0].latents},
        torch.cat([p.log_weights for p in parts], dim),
        {name: torch.cat([p.log_likelihood[name] for p in parts], dim) for name in parts[0].log_likelihood},
    )


def draw(programs: Pair, batch: Mapping[str, Tensor], count: int) -> Particles:
    """``count`` particles of every datum of a batch.

    Args:
        programs: a pair in evaluation mode.
        batch: the data.
        count: k.
    """
    pair = programs.traces(batch, count)
    log_w, observed, _ = log_weights_by_site(pair, scaled=False)
    latents = {n: q for n, (q, p) in pair.latent().items() if p is not None and not q["infer"].get("is_auxiliary")}
    factors = {name for name, site in pair.observed().items() if is_factor(site)}
    return Particles(
        {name: _particles_first(q, pair) for name, q in latents.items()},
        log_w.double(),
        {name: value.double() for name, value in observed.items() if name not in factors},
    )


def _particles_first(site: Site, pair: TracePair) -> Tensor:
    """A latent site's value ``(k, *inner plates, N, *event)`` as ``(k, N, *inner plates, *event)``."""
    rank, value = -pair.particle_dim, site["value"]
    value = value.reshape((1,) * (rank + site["fn"].event_dim - value.dim()) + value.shape)
    value = value.expand(pair.num_particles // pair.copies, *value.shape[1:]).movedim(rank - 1, 1)
    if pair.copies > 1:
        value = value.unflatten(1, (-1, pair.copies))[0].transpose(0, 1)  # (1, N k, …) -> (k, N, …)
    plates = {frame.dim for frame in site["cond_indep_stack"]}
    return value.squeeze(tuple(i + 1 for i in range(1, rank - 1) if i - rank not in plates))


class Resampled:
    """Particles chosen with replacement in proportion to their weights, from chunks that are seen one after another.

    Each of the places holds, at any time, one of the particles seen so far with probability w / (sum of all w): a new
    chunk of total weight W takes a place with probability W / (W + sum of those before).

    Args:
        num_draws: places of each datum.
    """

    def __init__(self, num_draws: int) -> None:
        self.num_draws = num_draws
        self._chosen: Particles | None = None
        self._log_total = torch.tensor(-torch.inf)

    def add(self, particles: Particles) -> None:
        """Take a chunk of particles of the same data into account."""
        log_w = particles.log_weights  # (k, N)
        log_sum = log_w.logsumexp(0)  # (N,)
        chances = (log_w - log_sum).exp().nan_to_num(1.0).T  # (N, k); anything, where all of them are zero
        which = torch.multinomial(chances, self.num_draws, replacement=True).T  # (draws, N)
        data = torch.arange(which.shape[1], device=which.device)
        picked = particles.map(lambda value: value[which, data])
        if self._chosen is None:
            self._chosen, self._log_total = picked, log_sum
            return
        self._log_total = torch.logaddexp(self._log_total, log_sum)
        new = torch.rand(which.shape, dtype=log_w.dtype, device=which.device) < (log_sum - self._log_total).exp()

        def replaced(old: Tensor, value: Tensor) -> Tensor:
            return torch.where(new.reshape(*new.shape, *[1] * (value.dim() - 2)), value, old)

        old = self._chosen
        self._chosen = Particles(
            {name: replaced(old.latents[name], value) for name, value in picked.latents.items()},
            replaced(old.log_weights, picked.log_weights),
            {name: replaced(old.log_likelihood[name], value) for name, value in picked.log_likelihood.items()},
        )

    def result(self) -> Particles:
        """The chosen particles, ``num_draws`` of every datum.

        Raises:
            InputError: if a datum's weights are all zero, or not numbers.
        """
        assert self._chosen is not None
        if not bool(self._log_total.isfinite().all()):
            raise InputError(
                "the particles of a datum cannot be resampled: their importance weights are all zero, or not numbers; "
                "the guide draws where the model has no density"
            )
        return self._chosen


CHUNK = 128 * 2**20  # bytes of the tensors of a chunk of particles


def to_arviz(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    num_draws: int = 1000,
    resample: bool = False,
    num_particles: int = 5000,
    vectorize: bool = True,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> InferenceData | DataTree:
    r"""Draws of the latents of every datum, with what is known of them, for ArviZ's summaries, plots and files.

    The groups: ``posterior``, every latent site of the model, ``(1, draw, datum, *event)``; ``sample_stats``,
    ``log_weight``, log p(x, z) - log q(z | x) of every draw; ``log_likelihood``, log p(x | z) of every data site and
    draw, ``(1, draw, datum)``; ``observed_data``, the data sites, ``(datum, *event)``; ``constant_data``, per datum the
    importance-weighted bound ``log_marginal_likelihood`` (nats), ``effective_sample_size`` and ``pareto_k``.

    Args:
        model, guide: Pyro programs whose per-datum sites are in a plate at dim -1.
        data: as for :func:`~pyro_vae.evaluation.log_likelihood`.
        num_draws: draws of each datum; one, if the guide has nothing to draw.
        resample: False: the draws are the guide's, z ~ q(z | x), and the bounds are from them. True: each draw is one
            of ``num_particles`` of the guide's, chosen with a probability proportional to its importance weight, so
            that the draws become the posterior's as the number of particles grows; the bounds are from all particles.
        num_particles: K, where draws are resampled.
        vectorize, seed, device: as for :func:`~pyro_vae.evaluation.log_likelihood`.

    Returns:
        what the ArviZ that is installed works with: its 0.x an ``InferenceData``, its 1.x an ``xarray.DataTree``.

    Raises:
        InputError: if ArviZ is not installed (``pip install 'pyro-vae[arviz]'``); for non-positive numbers; if all
            particles of a datum have weight zero; and as :func:`~pyro_vae.evaluation.log_likelihood` does.

    Source: Rubin 1988, Using the SIR algorithm to simulate posterior distributions (Bayesian Statistics 3).
    """
    arviz = _arviz()
    positive("num_draws", num_draws)
    positive("num_particles", num_particles)
    with evaluating(model, guide, data, seed, device, vectorize=vectorize) as (pair, split):
        pair = pair.drawn()
        pair.refuse_point_masses()
        if not anything_to_draw(pair, split):
            logger.info("one draw is taken: the guide draws nothing, all %d would be the same", num_draws)
            num_draws = num_particles = 1
        total = num_particles if resample else num_draws

        def particles(batch: Mapping[str, Tensor], count: int) -> Particles:
            return draw(pair, batch, count)

        first = split.batch(split.largest())
        rows = max(1, int(CHUNK / bytes_per_row(lambda n: particles(first, n))))
        chunk = min(rows, total)
        parts, observed, constant = [], [], []
        for batch in split.batches(pair.batch_size(rows // chunk)):
            weights, kept, resampled = [], [], Resampled(num_draws)
            for done in range(0, total, chunk):
                found = particles(batch, min(chunk, total - done))
                weights.append(found.log_weights)
                if resample:
                    resampled.add(found)
                else:
                    kept.append(found)
            parts.append((resampled.result() if resample else joined(kept, 0)).cpu())
            constant.append(_of_weights(torch.cat(weights)))
            observed.append(_observed(pair.traces(batch)))
    found = joined(parts, 1)
    stats = {name: torch.cat([c[name] for c in constant]).cpu() for name in constant[0]}
    seen = {name: torch.cat([o[name] for o in observed]).cpu() for name in observed[0]}
    names = [*found.latents, *found.log_likelihood, *seen, *stats, "log_weight"]
    groups = {
        "posterior": _in_a_chain(found.latents),
        "sample_stats": _in_a_chain({"log_weight": found.log_weights}),
        "log_likelihood": _in_a_chain(found.log_likelihood),
        "observed_data": {name: value.numpy() for name, value in seen.items()},
        "constant_data": {name: value.numpy() for name, value in stats.items()},
    }
    axes = {"coords": {"datum": list(range(len(split)))}, "dims": {name: ["datum"] for name in names}}
    attrs = {
        "inference_library": "pyro_vae",
        "data": split.name,
        "draws": "resampled by importance weights" if resample else "from the guide",
        "num_particles": total,
    }
    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.from_dict(groups, **axes, attrs={"/": attrs})
    return arviz.from_dict(**groups, **axes, attrs=attrs)


def _of_weights(log_weights: Tensor) -> dict[str, Tensor]:
    """What the weights ``(K, N)`` say of every datum, ``(N,)`` each."""
    log_sum = log_weights.logsumexp(0)
    return {
        "log_marginal_likelihood": log_sum - math.log(len(log_weights)),
        "effective_sample_size": (2 * log_sum - (2 * log_weights).logsumexp(0)).exp(),
        "pareto_k": pareto_k(log_weights),
    }


def _observed(traces: TracePair) -> dict[str, Tensor]:
    """The data sites' values, ``(N, *event)``."""
    return {name: data_first(s["value"], s) for name, s in traces.observed().items() if not is_factor(s)}


def _in_a_chain(values: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: value[None].numpy() for name, value in values.items()}


def _arviz() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the announcement of its next version
            import arviz
    except ImportError as error:
        raise InputError("to_arviz needs ArviZ, which is not installed: pip install 'pyro-vae[arviz]'") from error
    return arviz
