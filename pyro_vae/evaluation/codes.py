"""Which of a model's latent sites are codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.distributions import constraints

from pyro_vae.checks import check_present
from pyro_vae.data import Split
from pyro_vae.evaluation.nodes import data_first, in_data_plate
from pyro_vae.evaluation.running import quiet
from pyro_vae.program import as_programs, prime
from pyro_vae.sites import elementwise_support
from pyro_vae.traces import Site, is_latent


class CodeSite(NamedTuple):
    """A latent site of codes.

    Attributes:
        num_codes: K; its values are 0 … K-1.
        shape: of one datum's codes: (height, width), (length,), or () for a single one.
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


def code_sites(nodes: Mapping[str, Site]) -> dict[str, CodeSite]:
    """The sites of codes among the nodes of a model's trace, in its order.

    A code site is a latent site in the data plate whose distribution in the *model* is over integers 0 … K-1. (A
    guide's may be a point mass, which knows no K.) The model is to be traced with its data: what it generates is
    latent too.
    """
    found = {}
    for name, node in nodes.items():
        if is_latent(node) and in_data_plate(node):
            num_codes = number_of_codes(node["fn"])
            if num_codes is not None:
                found[name] = CodeSite(num_codes, tuple(data_first(node["value"], node).shape[1:]))
    return found


def sites_of_codes(model: Callable[..., Any], guide: Callable[..., Any], split: Split) -> dict[str, CodeSite]:
    """The code sites of a pair of programs, found on a datum of the split; in the model's order."""
    programs = as_programs(model, guide)
    with quiet(programs, split.batch(slice(0, 1)), seed=0) as batch:
        for program, who in zip(programs, ("model", "guide"), strict=True):
            check_present(program, batch, who)
        return code_sites(prime(*programs, batch)[0].nodes)
