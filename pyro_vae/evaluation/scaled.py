"""Priors with less (or more) spread: a program under which chosen sites have their scale multiplied."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
from pyro.poutine.messenger import Messenger

from pyro_vae.errors import InputError

_FAMILIES = (dist.Normal, dist.Laplace, dist.Cauchy, dist.StudentT, dist.Gumbel, dist.Logistic)


class Scaled(Messenger):
    r"""A handler under which sites with a location and a scale are drawn closer to, or farther from, their location.

    .. math:: z = \mu + s \sigma \epsilon \quad \text{in place of} \quad z = \mu + \sigma \epsilon

    The noise is the same whatever s is, so that draws with one seed can be compared. The variance is multiplied by s².

    Args:
        factors: s by site name.

    Raises:
        InputError: for a factor that is not a positive number; in the run, for a site without a scale.

    Source: Maaløe et al. 2019, arXiv:1902.02102 (samples at several scales of the latents).
    """

    def __init__(self, factors: Mapping[str, float]) -> None:
        super().__init__()
        for name, factor in factors.items():
            if not (factor > 0 and math.isfinite(factor)):
                raise InputError(f"scales: the factor of '{name}' must be a positive number, got {factor}")
        self.factors = dict(factors)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.factors and not msg["is_observed"]:
            fn = scaled(msg["fn"], self.factors[msg["name"]])
            if fn is None:
                raise InputError(
                    f"scales: the distribution of site '{msg['name']}' ({_name(msg['fn'])}) has no location and scale; "
                    f"those that have are {', '.join(f.__name__ for f in _FAMILIES)} and MultivariateNormal"
                )
            msg["fn"] = fn


def scaled(fn: Any, factor: float) -> Any | None:
    """A distribution with its scale multiplied by a factor; None if it has no location and scale."""
    if isinstance(fn, dist.Independent):
        base = scaled(fn.base_dist, factor)
        return None if base is None else base.to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.MultivariateNormal):
        return dist.MultivariateNormal(fn.loc, scale_tril=factor * fn.scale_tril)
    family = next((family for family in _FAMILIES if isinstance(fn, family)), None)
    if family is None:
        return None
    parameters = {name: getattr(fn, name) for name in family.arg_constraints}
    return family(**parameters | {"scale": factor * fn.scale})


def _name(fn: Any) -> str:
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    return type(fn).__name__
