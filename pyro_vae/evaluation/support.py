"""What distributions can draw, and whether a guide can draw all that the model can."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.errors import InputError
from pyro_vae.program import Batch, Program
from pyro_vae.sites import ANGLE, of_angles
from pyro_vae.traces import TracePair

DRAWS = 1000  # of the prior, where bounds alone do not tell


def support_of(fn: Any) -> Any:
    """A distribution's support; of angles their range, and of a mixture that of its components, which is the same."""
    if of_angles(fn):
        return constraints.independent(ANGLE, fn.event_dim) if fn.event_dim else ANGLE
    return _without_mixtures(fn.support)


def check_covered(pair: TracePair, model: Program, batch: Batch) -> None:
    """Check that at every latent site the guide's support covers the model's.

    By the bounds of both where they are intervals of numbers, else by draws of the prior.

    Raises:
        InputError: names a site where it does not: estimates from such a guide miss a part of p(x).
    """
    sites = {
        name: (support_of(q["fn"]), support_of(p["fn"])) for name, (q, p) in pair.latent().items() if p is not None
    }
    unsure = []
    for name, (q, p) in sites.items():
        bounds = _bounds(q), _bounds(p)
        if bounds[0] is None or bounds[1] is None:
            unsure.append(name)
            continue
        low, high = ((a - b) for a, b in zip(*bounds, strict=True))
        if bool((low.nan_to_num() > 0).any()) or bool((high.nan_to_num() < 0).any()):  # inf - inf: both unbounded
            raise _too_small(name, q, p)
    if not unsure:
        return
    row = {name: value[:1].expand(DRAWS, *value.shape[1:]) for name, value in batch.items()}
    drawn = prune_subsample_sites(poutine.trace(model).get_trace(**row))
    for name in unsure:
        q, p = sites[name]
        if not bool(q.check(drawn.nodes[name]["value"]).all()):
            raise _too_small(name, q, p)


def _without_mixtures(support: Any) -> Any:
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        return _without_mixtures(support.base_constraint)
    if isinstance(support, constraints.independent):
        return constraints.independent(_without_mixtures(support.base_constraint), support.reinterpreted_batch_ndims)
    return support


def _bounds(support: Any) -> tuple[Tensor, Tensor] | None:
    """Least and greatest value of each number, or None where that does not say all."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support in (constraints.real, constraints.real_vector):
        return torch.tensor(-torch.inf), torch.tensor(torch.inf)
    known = {"lower_bound": -torch.inf, "upper_bound": torch.inf}
    if not any(hasattr(support, name) for name in known):
        return None
    low, high = (torch.as_tensor(getattr(support, name, end)) for name, end in known.items())
    return low, high


def _too_small(name: str, q: Any, p: Any) -> InputError:
    return InputError(
        f"latent site '{name}': the guide's support, {q}, does not cover the model's, {p}: what it cannot draw "
        "would be missing from the estimate; give the guide a distribution on the same support, or anneal with "
        'start="prior"'
    )
