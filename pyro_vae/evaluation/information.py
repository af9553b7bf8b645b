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
from pyro_vae.evaluation.chunks import MEMORY_BUDGET, USED
from pyro_vae.evaluation.results import Result, mean_and_error, metric
from pyro_vae.programs.densities import log_prob, total
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.session import evaluating
from pyro_vae.programs.sites import Site, kept
from pyro_vae.programs.traces import TracePair, in_particle_plate, is_deterministic, traced
from pyro_vae.runtime import peak_bytes

MOST = 1000  # data of the metric: the time grows as their square
BLOCK = 200  # data that are encoded at once


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
        data: of :class:`~pyro_vae.data.Data` the test part. The time grows as the square of their number, for a guide
            of several latents by a run for each pair of data.
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
    return _measured(model, guide, data, memory_budget, seed, device, cheap=False)


@metric
def information_in_latents(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, memory_budget: int, seed: int
) -> MutualInformation:
    """:func:`mutual_information` of the first 1000 data, for guides with a single latent."""
    return _measured(model, guide, split.subset(MOST), memory_budget, seed, None, cheap=True)


def _measured(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    memory_budget: int,
    seed: int,
    device: str | torch.device | None,
    *,
    cheap: bool,
) -> MutualInformation:
    positive("memory_budget", memory_budget)
    with evaluating(model, guide, data, seed, device, bounds=False) as (pair, split):
        if len(split) < 2:
            raise NotApplicable("of a single datum nothing can be known: the mutual information needs several")
        if pair.alone:
            raise NotApplicable("the programs run one datum at a time, and q(z) needs all of them together")
        pair, draws = pair.drawn(), []
        for batch in split.batches(BLOCK):
            drawn = pair.traces(batch)
            if not draws:
                _check(drawn, cheap)
            draws.append({name: _data_first(q) for name, (q, _) in drawn.latent().items()})
        z = {name: torch.cat([each[name] for each in draws]) for name in draws[0]}
        found = _of_data(pair, split, z, memory_budget).cpu()
    return MutualInformation(found, split.name)


def _check(drawn: TracePair, cheap: bool) -> None:
    """Refuse latents that have no mutual information with the data, or one that takes long where it is to be cheap."""
    latent = drawn.latent()
    shared = [name for name in latent if name in drawn.shared]
    alone = [name for name, (_, p) in latent.items() if p is None]
    masked = [name for name, (q, _) in latent.items() if kept(q) is not None]
    for names, words in (
        (shared, "all data share {}, which says nothing of one of them"),
        (alone, "{} is drawn by the guide alone, and q(z) would need the mean over it"),
        (masked, "of {} parts are masked, so that densities for different data are of different numbers"),
        (
            [*latent] if cheap and len(latent) > 1 else [],
            "{} may depend on one another, and the guide would be run for every pair of data; "
            "pyro_vae.evaluation.mutual_information does that",
        ),
    ):
        if names:
            raise NotApplicable(words.format(", ".join(names)))
    if drawn.guide_factors():
        raise NotApplicable(
            "a factor is a part of the guide's density, which is not known for other draws than its own"
        )
    if is_deterministic(drawn):
        raise NotApplicable("the guide has nothing to draw: the mutual information is that of an encoding, or infinite")


def _data_first(q: Site) -> Tensor:
    """What was drawn at a site, ``(N, *inner plates, *event)``."""
    return q["value"].movedim(q["value"].dim() - q["fn"].event_dim - 1, 0)


def _of_data(pair: Pair, split: Split, z: Mapping[str, Tensor], memory_budget: int) -> Tensor:
    """log q(z_i | x_i) - log mean_j q(z_i | x_j) of each datum, float64 ``(N,)``."""
    size = len(split)
    together = torch.full((size,), -torch.inf, dtype=torch.float64, device=split.device)
    own, rows = together.clone(), 1
    for block, batch in enumerate(split.batches(BLOCK)):
        drawn = pair.traces(batch)
        if not block and not pair.repeated:
            one = peak_bytes(lambda batch=batch, drawn=drawn: _densities(pair, batch, drawn, _some(z, slice(0, 1))))
            rows = max(1, int(USED * memory_budget / max(one, 1)))
        for start in range(0, size, rows):
            log_q = _densities(pair, batch, drawn, _some(z, slice(start, start + rows)))  # (R, B)
            i = torch.arange(start, start + len(log_q), device=split.device)
            together[i] = torch.logaddexp(together[i], log_q.logsumexp(1))
            j = i - block * BLOCK  # of the datum itself, if it is in this block
            here = (j >= 0) & (j < drawn.size)
            own[i[here]] = log_q[here, j[here]]
    return own - (together - math.log(size))


def _some(z: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in z.items()}


def _densities(pair: Pair, batch: Mapping[str, Tensor], drawn: TracePair, z: Mapping[str, Tensor]) -> Tensor:
    """log q(z_i | x_j) of some draws z_i given the data x_j of a batch, float64 ``(R, B)``."""
    held, count = Trace(), len(next(iter(z.values())))
    for name, (q, _) in drawn.latent().items():
        inner = z[name].dim() - 1 - q["fn"].event_dim  # dimensions of plates between the particles and the data
        value = z[name].unsqueeze(1 + inner)
        value = value.expand(*value.shape[: 1 + inner], drawn.size, *value.shape[2 + inner :])
        missing = (1,) * (pair.nesting - 1 - inner)
        value = value.reshape(count, *missing, *value.shape[1:]).clone()  # no transform knows it from before
        held.add_node(name, name=name, type="sample", is_observed=False, infer=q["infer"], value=_as_run(value, count))
    guide = in_particle_plate(poutine.replay(pair.guide, trace=held), count, -(pair.nesting + 1))
    try:
        trace = traced(guide, **batch)
        given = replace(drawn, guide=trace, num_particles=count, particle_dim=-(pair.nesting + 1))
        parts = [given.per_datum(log_prob(q), q).double() for q, _ in given.latent().values()]
    except (NotImplementedError, KeyError) as error:  # as transforms without an inverse say
        raise NotApplicable(f"the guide does not know its density at other draws than its own ({error!r})") from error
    return total(parts)


def _as_run(value: Tensor, count: int) -> Tensor:
    """Without the dimension of a plate of particles that is not there."""
    return value[0] if count == 1 else value
