"""Helpers that read one node of a trace: its plate, its mean, and whether it is a point mass."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.programs.traces import Site, TracePair, data_plates, is_observed


def in_data_plate(node: Site) -> bool:
    """Whether a site has a value per datum."""
    return any(frame.dim == -1 for frame in node["cond_indep_stack"])


def data_first(value: Tensor, node: Site) -> Tensor:
    """Bring a site's value ``(..., batch, *event)`` to ``(batch, ..., *event)``."""
    return value.movedim(value.dim() - 1 - node["fn"].event_dim, 0)


def mean_or_none(fn: Any) -> Tensor | None:
    """A distribution's mean, or None if it has none; a point mass at integers has none, for they are names."""
    try:
        mean = fn.mean
    except (NotImplementedError, AttributeError):
        return None
    if not mean.is_floating_point():
        return None
    return None if bool(mean.isnan().any()) else mean  # nan: torch's way to say so, e.g. of Categorical


def mean_of(node: Site) -> Tensor:
    """The mean of a site's distribution where it has one, else the site's value; ``(batch, ..., *event)``."""
    mean = mean_or_none(node["fn"])
    return data_first(node["value"] if mean is None else mean, node)


def is_point_mass(fn: Any) -> bool:
    """Whether a distribution has one value only, whatever the noise: a Delta without a density of its own."""
    while hasattr(fn, "base_dist"):  # independent, expanded, masked
        fn = fn.base_dist
    return isinstance(fn, dist.Delta) and not bool(fn.log_density.any())


def is_deterministic(pair: TracePair) -> bool:
    """Whether a guide has nothing to draw, so that all particles are the same: every latent is a point mass."""
    return all(is_point_mass(q["fn"]) for q, _ in pair.latent().values())


def check_whole(trace: Trace, size: int | None = None) -> None:
    """Refuse plates of which a run of a program takes a random part.

    Scaled up, such a part makes an unbiased estimate of a log-density, which training may use. Its exponential is no
    unbiased estimate of the density; and without the scale it is the density of fewer data.

    Args:
        trace: of a program.
        size: number of data that it was given, all of which must be in the data plate; None: not looked at.

    Raises:
        InputError: names the site, the plate and the sizes.
    """
    over_data = data_plates(trace) if any(is_observed(site) for site in trace.nodes.values()) else frozenset()
    for site in trace.nodes.values():
        for frame in site["cond_indep_stack"] if site["type"] == "sample" else ():
            if frame.name not in over_data and frame.full_size in (None, frame.size):
                continue  # of a fixed size, that of no data
            whole = size or frame.size if frame.dim == -1 else frame.full_size or frame.size
            if frame.size != whole:
                raise InputError(
                    f"site '{site['name']}': plate '{frame.name}' takes {frame.size} of {whole} at random in every run "
                    "(subsample_size), and no likelihood can be had from a part: let the program take all of them in "
                    f"evaluation (a module: subsample_size={frame.size} if self.training else None)"
                )
