"""How much the latents say of the data: the mutual information under the guide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.data import DataLike, Split
from pyro_vae.errors import NotApplicable, positive
from pyro_vae.evaluation.chunks import MEMORY_BUDGET
from pyro_vae.evaluation.results import Result, mean_and_error, metric
from pyro_vae.programs.densities import log_prob, total
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.session import evaluating
from pyro_vae.programs.sites import kept
from pyro_vae.programs.traces import TracePair, in_particle_plate, is_deterministic, traced

MOST = 1000  # data of the metric: the time grows as their square
PARTS = 8  # tensors of the size of the values that a density takes, at most


@dataclass
class MutualInformation(Result):
    """I(x; z) under the guide, of data that are equally likely.

    Attributes:
        of_data: log q(z | x) - log q(z) at one draw of each datum, ``(num_data,)`` float64 on the CPU, nats.
        split: the name of the data.
    """

    of_data: Tensor
    split: str = "data"

    @property
    def value(self) -> float:
        """The estimate, nats."""
        return mean_and_error(self.of_data)[0]

    @property
    def standard_error(self) -> float:
        """Of the estimate, from the spread over draws (their common q(z) left out of account), nats."""
        return mean_and_error(self.of_data)[1]

    @property
    def most(self) -> float:
        """log(number of data), nats: more cannot be known of them."""
        return math.log(len(self.of_data))

    @property
    def rows(self) -> dict[str, str]:
        """The estimate, its error, and what is the most."""
        number = f"{self.value:.2f} +- {self.standard_error:.2f} nats"
        return {"I(x; z) under the guide": f"{number}, at most log({len(self.of_data)}) = {self.most:.2f}"}

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values, nats."""
        return {
            "mutual_information": self.value,
            "standard_error": self.standard_error,
            "most": self.most,
            "num_data": len(self.of_data),
            "split": self.split,
        }


def mutual_information(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    memory_budget: int = MEMORY_BUDGET,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> MutualInformation:
    r"""Mutual information of data and latents under the guide.

    .. math:: I = E_x KL(q(z|x) \,\|\, p(z)) - KL(q(z) \,\|\, p(z))
        = \frac{1}{N} \sum_i \log q(z_i | x_i) - \log \frac{1}{N} \sum_j q(z_i | x_j), \quad z_i \sim q(z | x_i)

    z are all latents together. The N data are taken for all that there are: of x that is one of them, each equally
    likely, the estimate has no bias, and I is at most log N. Of data of which these N are a sample, it is a lower bound
    in expectation, and worthless near log N. 0: the posterior has collapsed, z says nothing of x.

    Args:
        model, guide: the programs.
        data: of :class:`~pyro_vae.data.Data` the test part. The time grows as the square of their number.
        memory_budget: bytes that the densities computed at once may take.
        seed: of the draws; the global random state is left as it was.
        device: where to evaluate; the programs' device if None.

    Returns:
        the estimate, and what it is a mean of.

    Raises:
        NotApplicable: for a single datum; where latents are masked, shared by all data, or the guide's alone, where
            the guide has nothing to draw, cannot run several data at once, or does not know its density at values that
            it has not drawn itself.

    Source: Hoffman & Johnson 2016, ELBO surgery; He et al. 2019, arXiv:1901.05534, section 4.2.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> found = pyro_vae.evaluation.mutual_information(model, guide, x)
        >>> found.of_data.shape, found.value < found.most
        (torch.Size([20]), True)
    """
    positive("memory_budget", memory_budget)
    with evaluating(model, guide, data, seed, device, bounds=False) as (pair, split):
        if len(split) < 2:
            raise NotApplicable("of a single datum nothing can be known: the mutual information needs several")
        if pair.alone:
            raise NotApplicable("the programs run one datum at a time, and q(z) needs all of them together")
        pair, batch = pair.drawn(), split.batch(slice(None))
        drawn = pair.traces(batch)
        _check(drawn)
        found = _of_data(pair, batch, drawn, memory_budget).cpu()
    return MutualInformation(found, split.name)


@metric
def information_in_latents(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, memory_budget: int, seed: int
) -> MutualInformation:
    """:func:`mutual_information` of the first 1000 data."""
    some = split if len(split) <= MOST else split.subset(MOST)
    return mutual_information(model, guide, some, memory_budget=memory_budget, seed=seed)


def _check(drawn: TracePair) -> None:
    latent = drawn.latent()
    shared = [name for name in latent if name in drawn.shared]
    alone = [name for name, (_, p) in latent.items() if p is None]
    masked = [name for name, (q, _) in latent.items() if kept(q) is not None]
    for names, words in (
        (shared, "all data share {}, which says nothing of one of them"),
        (alone, "{} is drawn by the guide alone, and q(z) would need the mean over it"),
        (masked, "of {} parts are masked, so that densities for different data are of different numbers"),
    ):
        if names:
            raise NotApplicable(words.format(", ".join(names)))
    if drawn.guide_factors():
        raise NotApplicable(
            "a factor is a part of the guide's density, which is not known for other draws than its own"
        )
    if is_deterministic(drawn):
        raise NotApplicable("the guide has nothing to draw: the mutual information is that of an encoding, or infinite")


def _of_data(pair: Pair, batch: Mapping[str, Tensor], drawn: TracePair, memory_budget: int) -> Tensor:
    """log q(z_i | x_i) - log mean_j q(z_i | x_j) of each datum, float64 ``(N,)``."""
    size = drawn.size
    numbers = sum(q["value"].numel() for q, _ in drawn.latent().values())  # of a draw of all data
    rows = 1 if pair.repeated else max(1, memory_budget // (PARTS * 8 * numbers))
    found = []
    for start in range(0, size, rows):
        some = slice(start, min(start + rows, size))
        log_q = _densities(pair, batch, drawn, some)  # (R, N)
        own = log_q[torch.arange(len(log_q)), torch.arange(start, some.stop)]
        found.append(own - (log_q.logsumexp(1) - math.log(size)))
    return torch.cat(found)


def _densities(pair: Pair, batch: Mapping[str, Tensor], drawn: TracePair, some: slice) -> Tensor:
    """log q(z_i | x_j) of some draws z_i given all data x_j, float64 ``(R, N)``."""
    held, count = Trace(), some.stop - some.start
    for name, (q, _) in drawn.latent().items():
        value, events = q["value"], q["fn"].event_dim
        rank = value.dim() - events
        value = value.movedim(rank - 1, 0)[some].unsqueeze(rank)  # (R, *inner plates, 1, *event)
        value = value.expand(*value.shape[:rank], drawn.size, *value.shape[rank + 1 :])
        missing = (1,) * (pair.nesting - rank)
        value = value.reshape(count, *missing, *value.shape[1:]).clone()  # no transform knows it from before
        held.add_node(name, name=name, type="sample", is_observed=False, infer=q["infer"], value=_as_run(value, count))
    guide = in_particle_plate(poutine.replay(pair.guide, trace=held), count, -(pair.nesting + 1))
    trace = traced(guide, **batch)
    given = replace(drawn, guide=trace, num_particles=count, particle_dim=-(pair.nesting + 1))
    try:
        parts = [given.per_datum(log_prob(q), q).double() for q, _ in given.latent().values()]
    except (NotImplementedError, KeyError) as error:  # as transforms without an inverse say
        raise NotApplicable(f"the guide does not know its density at other draws than its own ({error!r})") from error
    return total(parts)


def _as_run(value: Tensor, count: int) -> Tensor:
    """Without the dimension of a plate of particles that is not there."""
    return value[0] if count == 1 else value
