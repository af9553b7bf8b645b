"""What sites give where nothing is drawn: decided once from a run, then followed without looking at numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.nn import functional

from pyro_vae.programs.sites import (
    Site,
    data_first,
    deviation_or_none,
    innermost,
    is_discrete,
    is_point_mass,
    kept,
    mean_or_none,
)

How = Literal["mean", "mode", "draw"]


def mode_or_none(fn: Any) -> Tensor | None:
    """The most probable value of a categorical, one-hot or Bernoulli distribution, in its whole shape; else None."""
    base = innermost(fn)
    if isinstance(base, torch.distributions.Categorical):
        value = base.logits.argmax(-1)
    elif isinstance(base, torch.distributions.OneHotCategorical):
        value = functional.one_hot(base.logits.argmax(-1), base.event_shape[-1]).to(base.logits.dtype)
    elif isinstance(base, torch.distributions.Bernoulli):
        value = (base.logits > 0).to(base.logits.dtype)
    else:
        return None
    return value.expand(fn.batch_shape + fn.event_shape)


def how_of(fn: Any) -> How:
    """At what a site is held: the mean of real values, the most probable one of classes, else a draw."""
    if is_discrete(fn):
        return "draw" if mode_or_none(fn) is None else "mode"
    return "draw" if mean_or_none(fn) is None else "mean"


class Settled(Messenger):
    """Gives latent sites the values that they are held at, means and most probable values.

    Args:
        plan: how each site is held, by name; None: it is found out, in :attr:`plan`.
    """

    def __init__(self, plan: Mapping[str, How] | None = None) -> None:
        super().__init__()
        self.known, self.plan = plan, dict(plan or {})

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        if self.known is None:
            self.plan[msg["name"]] = how_of(msg["fn"])
        how = self.plan.get(msg["name"], "draw")
        if how != "draw":
            msg["value"], msg["done"] = (msg["fn"].mean if how == "mean" else mode_or_none(msg["fn"])), True


class Held(Messenger):
    """Gives sites values ``(batch, ..., *event)``, with the data dimension moved to where plates want it."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            value = self.values[msg["name"]]
            msg["value"] = value.movedim(0, value.dim() - 1 - msg["fn"].event_dim)
            msg["done"] = True


class Reached(BaseException):
    """The data site has been reached; not an Exception, which a program might catch."""


class UpTo(Messenger):
    """Ends a run where it comes to a site, and keeps that site, of which nothing is drawn.

    Args:
        site: its name.

    Attributes:
        found: the site, as a node of a trace, without a value; None: it has not come.
        seen: the names of sites before it.
    """

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site, self.found, self.seen = site, None, list[str]()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.site:
            self.found = msg
            raise Reached
        self.seen.append(msg["name"])


MEAN, SCALE, PROBS = ".mean", ".scale", ".probs"


def moments_of(node: Site) -> list[str]:
    """What an encoder gives of a site: its mean and scale, its mean, or "", the value that it is held at."""
    fn = node["fn"]
    if mean_or_none(fn) is None or is_point_mass(fn):
        return [""]
    return [MEAN] if deviation_or_none(fn) is None else [MEAN, SCALE]


def read(node: Site, what: str) -> Tensor:
    """A value, mean or scale of a site, ``(batch, ..., *event)``; NaN, where a mask leaves numbers out."""
    fn = node["fn"]
    value = node["value"] if not what else fn.mean if what == MEAN else fn.variance.sqrt()
    value, mask = data_first(value, node), kept(node)
    if mask is None:
        return value
    value = value if value.is_floating_point() else value.double()
    return value.masked_fill(~data_first(mask, node), torch.nan)
