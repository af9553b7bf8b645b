"""Posterior probabilities of discrete latents that are summed over exactly, and what they say of labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import DataLike, Split
from pyro_vae.errors import InputError, NotApplicable, positive
from pyro_vae.evaluation.chunks import MEMORY_BUDGET, Chunks, Piece
from pyro_vae.evaluation.results import Result, Scores, metric
from pyro_vae.programs.context import X, accepted_arguments, declared_context
from pyro_vae.programs.densities import log_weights
from pyro_vae.programs.session import anything_to_draw, evaluating
from pyro_vae.programs.sites import kept
from pyro_vae.programs.traces import TracePair


def posterior_probabilities(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    num_particles: int = 100,
    memory_budget: int = MEMORY_BUDGET,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> dict[str, Tensor]:
    r"""p(y | x) of every discrete latent that is summed over, for every datum.

    .. math:: p(y \mid x) \approx \sum_k \tilde w_k\, p(y \mid x, z_k), \qquad
        \tilde w_k \propto \sum_y p(x, y, z_k) / q(z_k \mid x, y)

    Exact if all latents are summed over; else as good as the guide's draws z_k of the others are as importance samples
    (:func:`~pyro_vae.evaluation.log_likelihood` says how good). They are the derivatives of log p(x) by log p(y).

    Args:
        model, guide: Pyro programs, the discrete latents of which the guide lacks, or marks
            ``infer={"enumerate": "parallel"}``.
        data: as for :func:`~pyro_vae.evaluation.log_likelihood`.
        num_particles: K.
        memory_budget: bytes that the tensors computed at once may take.
        seed: of the draws; the global random state is left as it was.
        device: where to evaluate; the programs' device if None.

    Returns:
        by site ``(num_data, *inner plates, number of values)`` on the CPU, in the order of the distribution's
        ``enumerate_support()``; the last dimension adds up to one. NaN for a datum that a mask leaves the site out of:
        a label that is known (``obs_mask``), a step beyond a sequence's end.

    Raises:
        InputError: if nothing is summed over, and as :func:`~pyro_vae.evaluation.log_likelihood`.

    Example:
        >>> import pyro, pyro.distributions as dist, pyro_vae, torch
        >>> def model(x=None, num_samples=1):  # a mixture of two Gaussians
        ...     with pyro.plate("data", num_samples if x is None else len(x)):
        ...         c = pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.7])))
        ...         return pyro.sample("x", dist.Normal(4.0 * c[..., None], 1.0).to_event(1), obs=x)
        >>> def guide(x):
        ...     pass
        >>> pyro_vae.posterior_probabilities(model, guide, torch.tensor([[0.0], [4.0]]))["c"].argmax(-1)
        tensor([0, 1])
    """
    positive("num_particles", num_particles)
    positive("memory_budget", memory_budget)
    with evaluating(model, guide, data, seed, device) as (pair, split):
        if not pair.sums:
            raise NotApplicable(
                "no latent site is summed over: leave a discrete site out of the guide, or mark it there with "
                "infer={'enumerate': 'parallel'}"
            )
        pair.refuse_point_masses()
        if not anything_to_draw(pair, split):
            num_particles = 1
        found: dict[str, Tensor] = {}
        sums = torch.full((len(split),), -torch.inf, dtype=torch.float64)  # log of the weights so far

        def look(piece: Piece) -> None:
            traces = piece.traces
            with torch.enable_grad():
                leaves = traces.tables(traces.sums.names).leaves()
                log_sum = log_weights(traces, scaled=False).logsumexp(0)  # (N,)
                grads = torch.autograd.grad(log_sum.sum(), list(leaves.values()))
            tables, new = traces.tables(traces.sums.names), log_sum.detach().double().cpu()
            whole = torch.logaddexp(sums[piece.rows], new)
            old_share, share = (sums[piece.rows] - whole).exp(), (new - whole).exp()
            for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
                p = tables.of_values(name, grad, leaf._pyro_dims).double().cpu()  # (N, *inner, number of values)
                p[~_is_there(traces, name)] = torch.nan
                if name not in found:
                    found[name] = torch.zeros(len(split), *p.shape[1:], dtype=torch.float64)
                wide = (-1, *(1,) * (p.dim() - 1))
                found[name][piece.rows] = old_share.reshape(wide) * found[name][piece.rows] + share.reshape(wide) * p
            sums[piece.rows] = whole

        Chunks(pair, split, num_particles, memory_budget).run(look)
    return {name: (p / p.sum(-1, keepdim=True)).to(torch.get_default_dtype()) for name, p in found.items()}


def _is_there(traces: TracePair, name: str) -> Tensor:
    """For which data ``(N,)`` any part of a summed site is not left out by a mask of the model's."""
    site = traces.model.nodes[name]
    mask = kept(site)
    if mask is None:
        return torch.ones(traces.size, dtype=torch.bool)
    while mask.dim() > len(site["fn"].batch_shape):
        mask = mask[..., 0]  # the numbers of an event
    mask = mask.expand(*mask.shape[:-1], traces.size * traces.copies).reshape(-1, traces.size, traces.copies)
    return mask.any(2).any(0).cpu()


UNKNOWN = -1  # a label that is not known


@metric
def accuracy(model: Callable[..., Any], guide: Callable[..., Any], split: Split, memory_budget: int) -> Result:
    """Whether the most probable label given the data alone is the right one, for labels that a model may be without."""
    labels = _labels(model, split)
    if not labels:
        raise NotApplicable("the model has no labels that the data could be without")
    name = labels[0]
    y = split.batch(slice(None))[name].cpu()
    hidden = labels_hidden(model, split)
    found = posterior_probabilities(model, guide, hidden, memory_budget=memory_budget)
    p = found.get(f"{name}_unobserved", found.get(name))
    if p is None or bool((y == UNKNOWN).any()):
        raise NotApplicable(f"{name} is not summed over, or not known of all these data")
    return Scores((p.argmax(-1) == y).double(), f"accuracy of {name}, which is not given", unit="")


def labels_hidden(model: Callable[..., Any], split: Split) -> Split:
    """The data without the labels that a model can be without."""
    return split.replaced(
        {name: torch.full((len(split),), UNKNOWN, device=split.device) for name in _labels(model, split)}
    )


def _labels(model: Callable[..., Any], split: Split) -> list[str]:
    partial = [name for name, context in declared_context(model).items() if context.drawn and name in split.keys]
    return [name for name in partial if is_labels(split, name)]


def is_labels(split: Split, name: str) -> bool:
    """Whether data of a name are class labels, one a datum."""
    return split.columns[name] == (torch.int64, ())


@dataclass
class Clusters(Result):
    """How the most probable value of a discrete latent goes with the labels of the data.

    Attributes:
        sites: by latent site a table ``(values, labels)`` of counts.
    """

    sites: dict[str, Tensor]

    @property
    def purity(self) -> dict[str, float]:
        """Share of data with the commonest label of their cluster."""
        return {name: (table.max(1).values.sum() / table.sum()).item() for name, table in self.sites.items()}

    @property
    def normalized_information(self) -> dict[str, float]:
        r"""Mutual information of clusters and labels over the mean of their entropies, between 0 and 1."""
        return {name: _information(table.double() / table.sum()) for name, table in self.sites.items()}

    @property
    def rows(self) -> dict[str, str]:
        """Purity and normalized mutual information of each site."""
        information = self.normalized_information
        return {
            f"clusters of {name}": f"purity {share:.3f}, normalized mutual information {information[name]:.3f}"
            for name, share in self.purity.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values."""
        return {
            "purity": self.purity,
            "normalized_mutual_information": self.normalized_information,
            "counts": {name: table.tolist() for name, table in self.sites.items()},
        }


def _information(p: Tensor) -> float:
    """2 I(a, b) / (H(a) + H(b)) of a joint table of probabilities."""

    def entropy(q: Tensor) -> Tensor:
        return -torch.special.xlogy(q, q).sum()

    marginals = entropy(p.sum(0)) + entropy(p.sum(1))
    return (2 * (marginals - entropy(p)) / marginals).item() if marginals > 0 else 1.0


@metric
def clusters(model: Callable[..., Any], guide: Callable[..., Any], split: Split, memory_budget: int) -> Clusters:
    """What the discrete latents that are summed over have to do with labels that the model does not know of."""
    labels = [n for n in split.columns if n != X and is_labels(split, n) and n not in (accepted_arguments(model) or ())]
    if not labels:
        raise NotApplicable("the data have no labels, or the model is given them")
    try:
        found = posterior_probabilities(model, guide, split, memory_budget=memory_budget)
    except InputError as error:
        raise NotApplicable(str(error)) from error
    y = split.batch(slice(None))[labels[0]].cpu()
    if bool((y < 0).any()):
        raise NotApplicable(f"{labels[0]} is not known of all these data")
    sites = {}
    for name, p in found.items():
        if p.dim() == 2:  # one value a datum
            size = int(y.max()) + 1
            sites[name] = torch.bincount(p.argmax(-1) * size + y, minlength=p.shape[1] * size).reshape(-1, size)
    if not sites:
        raise NotApplicable("no discrete latent has one value a datum")
    return Clusters(sites)
