"""Data as a model sees them: what its masks leave out is not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae.programs.context import X
from pyro_vae.programs.data_sites import observed_data
from pyro_vae.programs.program import as_programs, prime
from pyro_vae.programs.session import in_evaluation
from pyro_vae.programs.sites import Site, kept


def with_gaps(model: Callable[..., Any], guide: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
    """The data x ``(batch, ...)`` on the CPU, NaN where the model's data site leaves a number out: it was never seen.

    The site is one that observes x, or one for every step, x[:, 0], x[:, 1], …; else there are no gaps.
    """
    x, programs = batch[X].cpu(), as_programs(model, guide)
    if not x.is_floating_point():
        return x
    with in_evaluation(programs, batch, seed=0) as given:
        trace, _ = prime(*programs, given)
    sites = list(observed_data(trace.nodes).values())
    for group in ([site] for site in sites), [sites]:
        for some in group:
            if sum(site["value"].numel() for site in some) != x.numel() or x.dim() < 2:
                continue
            shape = x.shape if len(some) == 1 else x[:, 0].shape
            values, there = (
                torch.stack([of(site).reshape(shape).cpu() for site in some], 1).reshape(x.shape)
                for of in (_value, _there)
            )
            if torch.equal(values[there].to(x.dtype), x[there]):
                return torch.where(there, x, torch.nan)
    return x


def _value(site: Site) -> Tensor:
    return site["value"]


def _there(site: Site) -> Tensor:
    mask = kept(site)
    return torch.ones_like(site["value"], dtype=torch.bool) if mask is None else mask
