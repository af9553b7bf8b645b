"""Codes: which latent sites hold them, which of a codebook are in use, and how evenly."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.data import DataLike, Split
from pyro_vae.errors import InputError, positive
from pyro_vae.evaluation.chunks import MEMORY_BUDGET, MOST, USED
from pyro_vae.evaluation.results import Result
from pyro_vae.programs.checks import check_present
from pyro_vae.programs.context import accepted_arguments
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.program import as_programs, prime
from pyro_vae.programs.session import evaluating, in_evaluation
from pyro_vae.programs.sites import data_first, elementwise_support, in_data_plate
from pyro_vae.programs.traces import Site, is_deterministic, is_latent, repeat
from pyro_vae.runtime import bytes_per_row, private_seed


class CodeSite(NamedTuple):
    """A latent site of codes.

    Attributes:
        num_codes: K; its values are 0 … K-1.
        shape: of one datum's codes: (height, width) or (length,).
    """

    num_codes: int
    shape: tuple[int, ...]


def number_of_codes(fn: Any) -> int | None:
    """K, if a distribution is over integers 0 … K-1 (whatever their shape), else None."""
    support = elementwise_support(fn)
    if not isinstance(support, constraints.integer_interval):
        return None
    low, high = (torch.as_tensor(bound).flatten() for bound in (support.lower_bound, support.upper_bound))
    same = bool((low == 0).all()) and bool((high == high[0]).all())  # not another K for every datum
    return int(high[0]) + 1 if same else None


def support_or_none(fn: Any) -> constraints.Constraint | None:
    """A distribution's support, or None if it does not say."""
    try:
        return fn.support
    except (NotImplementedError, AttributeError):
        return None


def code_sites(nodes: Mapping[str, Site], arguments: Collection[str] = ()) -> dict[str, CodeSite]:
    """The sites of codes among the nodes of a model's trace, in its order.

    A code site is a latent site in the data plate, of a grid or a sequence whose distribution in the *model* is over
    integers 0 … K-1 at every position. (A guide's may be a point mass, which knows no K.) A single integer a datum, as
    a class, is a value and no code; a quantizer of one position says so by an event of shape (1,). The model is to be
    traced with its data: what it generates is latent too.

    Args:
        nodes: of the model's trace.
        arguments: what the model takes; sites of these names are data or context (labels that are known of some data).
    """
    found = {}
    for name, node in nodes.items():
        if is_latent(node) and in_data_plate(node) and name not in arguments:
            num_codes = number_of_codes(node["fn"])
            shape = () if num_codes is None else tuple(data_first(node["value"], node).shape[1:])
            if num_codes is not None and shape:
                found[name] = CodeSite(num_codes, shape)
    return found


def sites_of_codes(model: Callable[..., Any], guide: Callable[..., Any], split: Split) -> dict[str, CodeSite]:
    """The code sites of a pair of programs, found on a datum of the split; in the model's order."""
    programs = as_programs(model, guide)
    with in_evaluation(programs, split.batch(slice(0, 1)), seed=0) as batch:
        for program, who in zip(programs, ("model", "guide"), strict=True):
            check_present(program, batch, who)
        return code_sites(prime(*programs, batch)[0].nodes, accepted_arguments(programs[0]) or ())


BATCH = 500  # data that are encoded at once, at most
UNIT = 8 * 2**20  # bytes that these take, at most


@dataclass
class CodeUsage:
    """The codes of one site over the data.

    Attributes:
        counts: how often each code was used, over data and positions, int64 ``(K,)`` on the CPU.
        shape: of one datum's codes.
    """

    counts: Tensor
    shape: tuple[int, ...]

    @property
    def num_codes(self) -> int:
        """K."""
        return len(self.counts)

    @property
    def num_positions(self) -> int:
        """N, how many codes a datum has."""
        return math.prod(self.shape)

    @property
    def num_used(self) -> int:
        """How many codes were used at least once."""
        return int((self.counts > 0).sum())

    @property
    def usage(self) -> float:
        """The part of the codes that were used at least once, in [0, 1]."""
        return self.num_used / self.num_codes

    @property
    def entropy(self) -> float:
        r"""Of the aggregate usage, :math:`-\sum_k p_k \log_2 p_k`, bits per code: between 0 and log2 K."""
        p = self.counts.double() / self.counts.sum()
        return -torch.special.xlogy(p, p).sum().item() / math.log(2) + 0.0

    @property
    def perplexity(self) -> float:
        """2 to the entropy: so many codes, evenly used, would have as much. Between 1 and K."""
        return 2.0**self.entropy

    def to_dict(self) -> dict[str, object]:
        """The summary as plain values; entropy in bits per code."""
        return {
            "num_codes": self.num_codes,
            "shape": list(self.shape),
            "num_used": self.num_used,
            "usage": self.usage,
            "perplexity": self.perplexity,
            "entropy_bits": self.entropy,
        }


@dataclass
class CodeStatistics(Result):
    """The codes of every code site.

    Attributes:
        sites: by name, in the model's order; none for a model without codes.
        num_data: how many data they are of.
        split: the name of the data.
    """

    sites: dict[str, CodeUsage]
    num_data: int
    split: str = "data"

    @property
    def rows(self) -> dict[str, str]:
        """How many codes of each site are in use, and how evenly."""

        def in_words(site: CodeUsage) -> str:
            used = f"{site.num_used} of {site.num_codes} in use ({100 * site.usage:.0f}%)"
            return f"{used}, perplexity {site.perplexity:.0f}"

        return {f"codes of {name}": in_words(site) for name, site in self.sites.items()}

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values."""
        sites = {name: site.to_dict() for name, site in self.sites.items()}
        return {"sites": sites, "num_data": self.num_data, "split": self.split}


def code_statistics(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    memory_budget: int = MEMORY_BUDGET,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> CodeStatistics:
    """How often the guide uses each code of each code site (:func:`~pyro_vae.evaluation.codes.code_sites`).

    Args:
        model, guide: Pyro programs whose per-datum sites are in a plate at dim -1.
        data: as for :func:`~pyro_vae.evaluation.log_likelihood`.
        memory_budget: bytes that the guide may take at once; no number depends on it.
        seed: of the draws of a guide that has any; the global random state is left as it was.
        device: where to evaluate; the programs' device if None.

    Returns:
        counts, usage, perplexity and entropy by site.

    Raises:
        InputError: for a non-positive budget, or one that is too small for the guide; data out of the likelihood's
            support, sites that do not match, and a guide that gives codes which the model does not have.

    Source: van den Oord et al. 2017, arXiv:1711.00937 (perplexity of a codebook).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VQVAE((3, 16, 16), num_codes=32, code_dim=4, channels=8)
        >>> x = torch.rand(20, 3, 16, 16).mul(255).byte()
        >>> codes = pyro_vae.evaluation.code_statistics(model, pyro_vae.guides.VQGuide(model), x).sites["codes"]
        >>> codes.shape, codes.counts.sum()
        ((4, 4), tensor(320))
    """
    positive("memory_budget", memory_budget)
    with evaluating(model, guide, data, seed, device, bounds=False) as (
        pair,
        split,
    ):
        pair = pair.drawn()
        sites = code_sites(pair.traces(split.batch(slice(0, 1))).model.nodes, accepted_arguments(pair.model) or ())
        sites = {name: site for name, site in sites.items() if name not in pair.sums.model}
        counts = {n: torch.zeros(s.num_codes, dtype=torch.int64, device=split.device) for n, s in sites.items()}
        for batch in split.batches(_batch_size(pair, split, memory_budget)) if sites else ():
            trace = poutine.trace(pair.guide).get_trace(**batch)
            for name, site in sites.items():
                counts[name] += _counted(name, site, trace.nodes[name]["value"])
        usage = {name: CodeUsage(counts[name].cpu(), site.shape) for name, site in sites.items()}
        return CodeStatistics(usage, len(split), split.name)


def _batch_size(pair: Pair, split: Split, memory_budget: int) -> int:
    """Data that the guide is run on at once: of one that draws, by its own needs alone, so that the draws are the same.

    Raises:
        InputError: if the budget is too small for so many.
    """
    first, limit = split.batch(split.largest()), USED * memory_budget
    with private_seed(0, split.device):
        draws = not is_deterministic(pair.traces(first))
        most = UNIT if draws else min(UNIT, limit)
        each = bytes_per_row(lambda n: poutine.trace(pair.guide).get_trace(**repeat(first, n)), 1, BATCH, most)
    size = pair.batch_size(min(BATCH, int(most / each)))
    if size * each > MOST * memory_budget:
        raise InputError(
            f"memory_budget {memory_budget} bytes is too small: the guide draws for {size} data at once, which takes "
            f"{size * each:.0f} bytes; {math.ceil(size * each / MOST)} are enough"
        )
    return size


def _counted(name: str, site: CodeSite, codes: Tensor) -> Tensor:
    """How often each code occurs, int64 ``(K,)``."""
    low, high = (int(end) for end in codes.aminmax())
    if low < 0 or high >= site.num_codes:
        raise InputError(
            f"the guide gives codes from {low} to {high} at site '{name}', of which the model has 0 … "
            f"{site.num_codes - 1}"
        )
    return torch.bincount(codes.flatten().long(), minlength=site.num_codes)
