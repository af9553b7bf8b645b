"""Scores of single data: what each one's log-likelihood is, how far that is to be trusted, and which are the lowest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import DataLike, held_out
from pyro_vae.errors import positive
from pyro_vae.evaluation.chunks import MEMORY_BUDGET
from pyro_vae.evaluation.importance import log_likelihood
from pyro_vae.evaluation.results import NAMED, LogLikelihood, Result
from pyro_vae.programs.context import given_names
from pyro_vae.recording import Compile


@dataclass
class DatumScores(Result):
    """Log-likelihoods of single data, with what the data are called.

    Attributes:
        likelihood: the bounds (nats), effective sample sizes and k-hats, ``(num_data,)`` each, in the data's order.
        ids: of the data: their names, such as those of files, if they have names; else their places, from 0.
        given: what of the data is given: the bounds are on log p(x | given).
    """

    likelihood: LogLikelihood
    ids: tuple[str, ...] | tuple[int, ...]
    given: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of data."""
        return len(self.ids)

    def lowest(self, count: int = NAMED) -> list[int]:
        """The places of the data that the model finds the least likely, the lowest first; those that are NaN first."""
        order = self.likelihood.per_datum.nan_to_num(-torch.inf, torch.inf, -torch.inf).argsort(stable=True)
        return order[: positive("count", count)].tolist()

    def row(self, place: int) -> dict[str, Any]:
        """The numbers of one datum as plain values, with its id; k-hat None where it is undefined."""
        found = {"id": self.ids[place], **{name: value[place].item() for name, value in self.arrays().items()}}
        return {**found, "pareto_k": None if math.isnan(found["pareto_k"]) else found["pareto_k"]}

    @property
    def rows(self) -> dict[str, str]:
        """The mean bound, what the weights are like, and the lowest data."""
        given = {"given": f"{', '.join(self.given)}: log p(x | {', '.join(self.given)})"} if self.given else {}
        lowest = [self.row(place) for place in self.lowest()]
        named = ", ".join(f"{row['id']} ({row['log_likelihood']:.2f})" for row in lowest)
        least = {"lowest (nats)": named + (", …" if len(lowest) < len(self) else "")}
        return given | {"of": ", ".join(self.likelihood.sites)} | self.likelihood.rows | least

    def arrays(self) -> dict[str, Tensor]:
        """The numbers of each datum, ``(num_data,)`` each, nats unless the name says otherwise."""
        return self.likelihood.arrays()

    @property
    def warnings(self) -> list[str]:
        """What makes the bounds doubtful, in sentences."""
        return self.likelihood.warnings

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values, with the lowest data."""
        return {
            **self.likelihood.to_dict(),
            "given": list(self.given),
            "of": list(self.likelihood.sites),
            "lowest": [self.row(place) for place in self.lowest()],
        }


def data_ids(names: Sequence[str] | None, count: int) -> tuple[str, ...] | tuple[int, ...]:
    """What data are called: by their names, or by their places from 0 if they have none."""
    return tuple(range(count)) if names is None else tuple(names)


def score(
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
) -> DatumScores:
    """A bound on log p(x) of every datum, with effective sample size and Pareto k-hat: which data are unlikely.

    The numbers are those of :func:`pyro_vae.log_likelihood` with the same arguments, bit for bit; beside them are the
    names of the data. What is unlikely under a model need not look odd, nor the reverse: a smooth image may be more
    likely than any that the model was trained on.

    Args:
        model, guide, data, num_particles, num_global, memory_budget, vectorize, seed, device, compile, progress: as for
            :func:`pyro_vae.log_likelihood`. A datum's draws depend on its place among the data.

    Returns:
        the numbers of each datum (``arrays()``), what the data are called (``ids``), the lowest of them.

    Raises:
        InputError: as :func:`pyro_vae.log_likelihood`.

    Example:
        >>> import torch, pyro_vae
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> scores = pyro_vae.score(model, guide, x, num_particles=100)
        >>> sorted(scores.arrays()), len(scores.lowest(3))
        (['effective_sample_size', 'log_likelihood', 'pareto_k'], 3)
    """
    split = held_out(data)
    likelihood = log_likelihood(
        model,
        guide,
        split,
        num_particles=num_particles,
        num_global=num_global,
        memory_budget=memory_budget,
        vectorize=vectorize,
        seed=seed,
        device=device,
        compile=compile,
        progress=progress,
    )
    count = len(likelihood.per_datum)
    return DatumScores(likelihood, data_ids(split.names, count), tuple(given_names(model, split.keys)))
