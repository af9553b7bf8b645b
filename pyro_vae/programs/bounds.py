"""Checks, by site, that the weights p(x, z) / q(z | x) of a pair have p(x) as their mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.errors import InputError
from pyro_vae.programs.densities import log_prob
from pyro_vae.programs.handlers import is_penalty
from pyro_vae.programs.sites import (
    Site,
    elementwise_support,
    innermost,
    is_delta,
    is_discrete,
    kept,
    masked_like,
    may_leave,
    same_masks,
    without_masks,
)
from pyro_vae.programs.traces import is_latent, is_observed

TOLERANCE = 1e-3  # nats: a density that differs by more is another one
ROUNDING = 1e-5  # of float32, relative to the densities themselves
FULL = 64  # numbers of a Jacobian whose determinant is taken; larger ones must be diagonal


@dataclass
class BoundCheck:
    """What was found.

    Attributes:
        left_out: factors of the guide that are no part of its density.
        point_masses: continuous latents at which the guide has a point mass: there is no bound then.
        doubts: sentences for results.
    """

    left_out: frozenset[str] = frozenset()
    point_masses: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def check_bound(
    model_trace: Trace, guide: Callable[..., Any], guide_trace: Trace, batch: Mapping[str, Tensor]
) -> BoundCheck:
    r"""Check by site that E_q[p(x, z) / q(z | x)] is p(x).

    - A density is weighed against a density, a probability against a probability.
    - What the guide says of its own density is the density of what it draws: with masks, factors, ``Delta`` with a
      ``log_density``, and auxiliary sites u that others are functions of,

      .. math:: \log q(v) = \log q(u) - \log |\det dv / du|

    - A site that only the guide has is otherwise given a density in the model too, a reverse model r(a | x, z).

    Args:
        model_trace, guide_trace: of a few data, the model replayed against the guide.
        guide: the guide, run again where a Jacobian is asked for.
        batch: those data.

    Raises:
        InputError: names the site, and what would be right.
    """
    model_trace, guide_trace = prune_subsample_sites(model_trace.copy()), prune_subsample_sites(guide_trace.copy())
    found = BoundCheck()
    latents = {n: s for n, s in guide_trace.nodes.items() if is_latent(s)}
    functions, auxiliary = [], [n for n, s in latents.items() if n not in model_trace.nodes and not is_delta(s["fn"])]
    for name, q in list(latents.items()):
        if name in model_trace.nodes:
            p = model_trace.nodes[name]
            q = latents[name] = masked_like(q, p)
            _check_kinds(name, q, p)
            _check_masks(name, q, p)
            if is_delta(q["fn"]) and not is_delta(p["fn"]) and is_discrete(p["fn"]) is not True:
                functions.append(name)
            elif not is_delta(q["fn"]) and may_leave(q["fn"], p["fn"]):
                found.doubts.append(_leaves(name, q, p))
            if not is_delta(q["fn"]) and may_leave(p["fn"], q["fn"]) and not may_leave(q["fn"], p["fn"]):
                found.doubts.append(
                    f"latent site '{name}': the guide's {_kind(q)} does not cover the support of the model's "
                    f"{_kind(p)}: what it cannot draw is missing from the bound"
                )
    factors = [
        n for n, s in guide_trace.nodes.items() if is_observed(s) and not is_penalty(s) and bool(log_prob(s).any())
    ]
    masked = [n for n, q in latents.items() if n in model_trace.nodes and not _equal_masks(q, model_trace.nodes[n])]
    if not (functions or auxiliary or factors or masked):
        return found
    if functions and not auxiliary:
        found.point_masses = functions
    excess, of_factors = _excess(model_trace, guide_trace, latents), _sum(guide_trace, factors)
    jacobian = _log_det(guide, guide_trace, model_trace, auxiliary, functions, batch) if auxiliary else 0.0
    if found.point_masses and not factors:
        return found
    size = sum((log_prob(site).double().abs().sum() for site in latents.values()), torch.zeros(()))

    def near(nats: Tensor | float) -> bool:
        return bool(torch.as_tensor(nats).abs() < TOLERANCE + ROUNDING * size.nan_to_num())

    if jacobian is not None and near(excess + of_factors + jacobian):
        found.point_masses = []
    elif factors and jacobian is not None and (near(excess + jacobian) or found.point_masses):
        found.left_out = frozenset(factors)
        found.doubts.append(
            f"factor {_named(factors)} of the guide is no part of the density of what it draws, and is left out of "
            "this: say so by pyro_vae.programs.handlers.penalty(name, value), which training adds to its loss in the "
            "same way"
        )
    elif auxiliary:
        raise InputError(
            f"site {_named(auxiliary)} is the guide's alone, so that its weights are no bound on p(x): they would have "
            "a density of 1 everywhere in the place of the model's. Give the model a reverse model of it, a site of "
            f"the same name after its data: pyro.sample('{auxiliary[0]}', r, infer={{'is_auxiliary': True}}) with a "
            "distribution r that may depend on x and z; or, where latents are one-to-one functions of it, make these "
            'Delta(value, log_density=-log|det|) of the same number of values; ais needs no guide with start="prior"'
        )
    else:
        raise InputError(
            f"the guide's density of {_named(masked or latents)} is not the density of what it draws (it differs by "
            f"{abs(float(excess + of_factors)):.3g} nats): a mask, a Delta's log_density or a factor is wrong"
        )
    return found


def _check_kinds(name: str, q: Site, p: Site) -> None:
    kinds = is_discrete(q["fn"]), is_discrete(p["fn"])
    if None not in kinds and kinds[0] != kinds[1]:
        words = {True: "probabilities", False: "a density"}
        raise InputError(
            f"latent site '{name}': the guide's {_kind(q)} has {words[kinds[0]]}, the model's {_kind(p)} "
            f"{words[kinds[1]]}, which cannot be weighed against each other. Either draw it from {_kind(p)} in the "
            f"guide as well, or give the model a {_kind(q)} there (a relaxed model, whose likelihood is its own)"
        )
    if is_delta(p["fn"]) and not is_delta(q["fn"]):
        raise InputError(
            f"latent site '{name}': the model has a point mass there, which the guide's {_kind(q)} never draws: give "
            "the guide the same Delta, or make it a pyro.deterministic in both"
        )


def _check_masks(name: str, q: Site, p: Site) -> None:
    kept_q, kept_p = _broadcast_masks(q, p)
    if bool((kept_q & ~kept_p).any()):
        raise InputError(
            f"latent site '{name}' is masked in the model where it is not in the guide, which leaves a density of the "
            "guide's with nothing of the model's against it: mask it alike in both"
        )


def _equal_masks(q: Site, p: Site) -> bool:
    if is_delta(q["fn"]) or same_masks(q, p):
        return True
    kept_q, kept_p = _broadcast_masks(q, p)
    return torch.equal(kept_q, kept_p)


def _broadcast_masks(q: Site, p: Site) -> tuple[Tensor, Tensor]:
    value = q["value"]
    every = torch.ones(value.shape, dtype=torch.bool, device=value.device)
    ours, theirs = (every if (mask := kept(site)) is None else mask & every for site in (q, p))
    return ours, theirs


def _excess(model: Trace, guide: Trace, latents: Mapping[str, Site]) -> Tensor | float:
    """What the guide's sites say of their log-density beyond that of what is drawn, nats, summed over everything."""
    total: Tensor | float = 0.0
    for name, site in latents.items():
        if is_delta(site["fn"]):
            total = total + log_prob(site).double().sum()
        elif name not in model.nodes or not _equal_masks(site, model.nodes[name]):
            whole = without_masks(site["fn"]).log_prob(site["value"]).double().sum()
            total = total + log_prob(site).double().sum() - whole
    return total


def _sum(guide: Trace, names: list[str]) -> Tensor | float:
    return sum((log_prob(guide.nodes[n]).double().sum() for n in names), 0.0)


def _log_det(
    guide: Callable[..., Any],
    trace: Trace,
    model: Trace,
    auxiliary: list[str],
    functions: list[str],
    batch: Mapping[str, Tensor],
) -> Tensor | None:
    """log |det dv / du| of the latents v that are functions of auxiliary sites u; None if it is no one-to-one map."""
    held = trace.copy()
    u = {name: trace.nodes[name]["value"].detach().clone().requires_grad_() for name in auxiliary}
    if not all(value.is_floating_point() for value in u.values()):
        return None
    for name, value in u.items():
        held.nodes[name] = {**held.nodes[name], "value": value}
    for name in functions:
        held.remove_node(name)
    with torch.enable_grad():
        values = poutine.trace(poutine.replay(guide, trace=held)).get_trace(**batch).nodes
        v = torch.cat(
            [_free(values[name]["value"], model.nodes[name]).flatten() for name in functions] or [torch.zeros(0)]
        )
        count = sum(value.numel() for value in u.values())
        if len(v) != count or not v.requires_grad:
            return None

        def pulled(weights: Tensor) -> Tensor:
            found = torch.autograd.grad(v, list(u.values()), weights, retain_graph=True, allow_unused=True)
            return torch.cat(
                [
                    (torch.zeros_like(value) if g is None else g).flatten()
                    for g, value in zip(found, u.values(), strict=True)
                ]
            ).double()

        diagonal, weights = pulled(torch.ones_like(v)), torch.randn(v.shape, dtype=v.dtype, device=v.device)
        if torch.allclose(pulled(weights), diagonal * weights.double(), rtol=1e-4, atol=1e-6):
            return diagonal.abs().log().sum()
        if count > FULL:
            return None
        return (
            torch.stack([pulled(row) for row in torch.eye(count, dtype=v.dtype, device=v.device)]).slogdet().logabsdet
        )


def _free(value: Tensor, site: Site) -> Tensor:
    """As many numbers of a value as can be chosen: of a simplex all but the last."""
    return value[..., :-1] if elementwise_support(site["fn"]) is constraints.simplex else value


def _leaves(name: str, q: Site, p: Site) -> str:
    return (
        f"latent site '{name}': the guide's {_kind(q)} draws values outside the support of the model's {_kind(p)}; "
        "these weigh nothing, and the ELBO of such a pair is -inf: give the guide a distribution on that support"
    )


def _kind(site: Site) -> str:
    return type(innermost(site["fn"])).__name__


def _named(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)
