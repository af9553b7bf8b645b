"""What one site of a trace says: its support, its masks, and what kind of distribution it has."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

Site = dict[str, Any]
REAL = (constraints.real, constraints.real_vector)
ANGLE = constraints.interval(-math.pi, math.pi)
_ANGLES = (dist.VonMises, torch.distributions.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)


def innermost(fn: Any) -> Any:
    """A distribution inside its wrappers (independent, expanded, masked)."""
    while hasattr(fn, "base_dist") and not isinstance(fn, torch.distributions.TransformedDistribution):
        fn = fn.base_dist
    return fn


def is_factor(site: Site) -> bool:
    """Whether an observed site is a ``pyro.factor``, which has no value."""
    return isinstance(innermost(site["fn"]), dist.Unit)


def is_delta(fn: Any) -> bool:
    """Whether a distribution is a Delta, with a density of its own or without."""
    return isinstance(innermost(fn), dist.Delta)


def elementwise_support(fn: Any) -> constraints.Constraint | None:
    """The constraint on each number of a distribution's values, or None if it does not say."""
    if of_angles(fn):
        return ANGLE
    try:
        support = fn.support
    except (NotImplementedError, AttributeError):
        return None
    while isinstance(support, (constraints.independent, constraints.MixtureSameFamilyConstraint)):
        support = support.base_constraint
    return support


def of_angles(fn: Any) -> bool:
    """Whether a distribution is one of angles, or a mixture of such.

    It calls the real line its support, where its density is periodic; what it draws, and what its density integrates
    to one over, are angles between -pi and pi.
    """
    fn = innermost(fn)
    if isinstance(fn, torch.distributions.MixtureSameFamily):
        return of_angles(fn.component_distribution)
    return isinstance(fn, _ANGLES)


def is_discrete(fn: Any) -> bool | None:
    """Whether a distribution's values are discrete, and have probabilities; None: it does not say, or is a Delta."""
    support = None if is_delta(fn) else elementwise_support(fn)
    return None if support is None else bool(support.is_discrete)


def may_leave(q: Any, p: Any) -> bool:
    """Whether a distribution q may draw what is outside the support of p, as far as their kinds tell.

    Args:
        q, p: distributions; nothing is looked at but constraints and Python numbers.
    """
    theirs, ours = elementwise_support(q), elementwise_support(p)
    if ours is None or ours in REAL or theirs is ours:
        return False
    if theirs is None or constraints.is_dependent(ours):
        return theirs is None or not constraints.is_dependent(theirs)
    bounds = [_bounds(constraint) for constraint in (theirs, ours)]
    if bounds[0] is not None and bounds[1] is not None:
        (low, high), (least, most) = bounds
        return low < least or high > most or ours.is_discrete != theirs.is_discrete
    return type(ours) is not type(theirs) or bool(vars(ours)) or hasattr(ours, "lower_bound")


def _bounds(constraint: Any) -> tuple[float, float] | None:
    """The ends of an interval of numbers, if they are Python's; None otherwise."""
    if constraint in REAL:
        return -torch.inf, torch.inf
    if constraint is constraints.boolean:
        return 0.0, 1.0
    ends = getattr(constraint, "lower_bound", None), getattr(constraint, "upper_bound", None)
    if ends == (None, None) or any(isinstance(end, Tensor) for end in ends):
        return None
    return (-torch.inf if ends[0] is None else ends[0]), (torch.inf if ends[1] is None else ends[1])


def inside_support(fn: Any, value: Tensor, kept: Tensor | None = None) -> Tensor:
    """Whether values are in a distribution's support, ``(*batch,)``; elements that a mask leaves out always are.

    Args:
        fn: the distribution.
        value: ``(*batch, *event)``.
        kept: which elements count, ``(*batch, *event)``; all if None.
    """
    base, support = elementwise_support(fn), fn.support
    assert base is not None
    apart = isinstance(support, constraints.independent) or of_angles(fn)
    if not apart or (kept is None and not of_angles(fn)):
        return support.check(value)
    inside = base.check(value)  # (*batch, *outer event)
    if kept is not None:
        inside = inside | ~_leading(kept, inside.dim(), value.dim())
    events = fn.event_dim - base.event_dim
    return inside.flatten(inside.dim() - events).all(-1) if events else inside


def _leading(mask: Tensor, dims: int, of: int) -> Tensor:
    return mask if of == dims else mask.reshape((1,) * (of - mask.dim()) + mask.shape).flatten(dims).any(-1)
