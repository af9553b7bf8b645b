"""What evaluation reads from one node of a trace."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_vae.traces import Site


def in_data_plate(node: Site) -> bool:
    """Whether a site has a value per datum."""
    return any(frame.dim == -1 for frame in node["cond_indep_stack"])


def data_first(value: Tensor, node: Site) -> Tensor:
    """Bring a site's value ``(..., batch, *event)`` to ``(batch, ..., *event)``."""
    return value.movedim(value.dim() - 1 - node["fn"].event_dim, 0)


def mean_or_none(fn: Any) -> Tensor | None:
    """A distribution's mean, or None if it has none."""
    try:
        mean = fn.mean
    except (NotImplementedError, AttributeError):
        return None
    return None if bool(mean.isnan().any()) else mean  # nan: torch's way to say so, e.g. of Categorical


def mean_of(node: Site) -> Tensor:
    """The mean of a site's distribution where it has one, else the site's value; ``(batch, ..., *event)``."""
    mean = mean_or_none(node["fn"])
    return data_first(node["value"] if mean is None else mean, node)
