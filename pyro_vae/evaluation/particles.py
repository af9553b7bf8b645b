"""Particles z ~ q(z | x) with their values, weights and likelihoods; and their resampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.pair import Pair
from pyro_vae.sites import Site, is_factor
from pyro_vae.traces import TracePair, log_weights_by_site


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
