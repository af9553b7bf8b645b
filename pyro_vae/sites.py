"""What one site of a trace says: its support, its masks, and what kind of distribution it has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import MaskedDistribution
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


def inside_support(fn: Any, value: Tensor, kept: Tensor | bool = True) -> Tensor:
    """Whether values are in a distribution's support, ``(*batch,)``; elements that a mask leaves out always are.

    Args:
        fn: the distribution.
        value: ``(*batch, *event)``.
        kept: mask of elements, broadcast to the value.
    """
    base = elementwise_support(fn)
    support = fn.support if base is not ANGLE else constraints.independent(ANGLE, fn.event_dim)
    if kept is True or not isinstance(support, constraints.independent):
        return support.check(value)
    assert base is not None
    inside = base.check(value)  # (*batch, *outer event)
    inside = inside | ~_leading(kept, inside.dim(), value.dim())
    return inside.flatten(inside.dim() - (fn.event_dim - base.event_dim)).all(-1)


def _leading(mask: Tensor | bool, dims: int, of: int) -> Tensor:
    mask = torch.as_tensor(mask)
    return mask if of == dims else mask.reshape((1,) * (of - mask.dim()) + mask.shape).flatten(dims).any(-1)


def masks(site: Site) -> Iterator[tuple[Any, int]]:
    """Each mask of a site, its own (``poutine.mask``) and those in its distribution.

    Yields:
        the mask, a tensor or a bool, and how many dimensions of the value lie to the right of its own.
    """
    fn = site["fn"]
    if site["mask"] is not None:
        yield site["mask"], fn.event_dim
    while hasattr(fn, "base_dist") and not isinstance(fn, torch.distributions.TransformedDistribution):
        if isinstance(fn, MaskedDistribution):
            yield fn._mask, fn.event_dim
        fn = fn.base_dist


def masked_inside(fn: Any) -> bool:
    """Whether a mask is inside a transformed distribution or a mixture, and leaves out only a part of its density."""
    if isinstance(fn, MaskedDistribution):
        return True
    parts = (getattr(fn, name, None) for name in ("base_dist", "_component_distribution", "_mixture_distribution"))
    return any(masked_inside(part) for part in parts if part is not None)


def elementwise_mask(site: Site) -> Tensor | bool:
    """Which elements of a site's value count, broadcast to ``(*batch, *event)``; True: all."""
    kept: Any = True
    for mask, events in masks(site):
        if mask is True:
            continue
        mask = torch.as_tensor(mask)
        kept = mask.reshape(mask.shape + (1,) * events) & kept
    return kept


def same_masks(q: Site, p: Site) -> bool:
    """Whether two sites leave out the same elements, as far as the masks' identity tells."""
    ours, theirs = list(masks(q)), list(masks(p))
    return len(ours) == len(theirs) and all(a is b and i == j for (a, i), (b, j) in zip(ours, theirs, strict=True))


def masked_like(q: Site, p: Site) -> Site:
    """A guide's site with the masks of the model's site that leave out whole batch elements.

    What the model leaves out is not there: labels that are observed (``obs_mask``), steps beyond a sequence's end. The
    guide may sample it all the same.
    """
    own = {id(mask) for mask, _ in masks(q)}
    for mask, events in masks(p):
        if mask is not True and id(mask) not in own and events == p["fn"].event_dim:
            q = {**q, "mask": mask if q["mask"] is None or q["mask"] is True else q["mask"] & mask}
    return q


def without_masks(fn: Any) -> Any:
    """A distribution without the masks in its wrappers."""
    if isinstance(fn, MaskedDistribution):
        return without_masks(fn.base_dist)
    if isinstance(fn, torch.distributions.Independent):
        return dist.Independent(without_masks(fn.base_dist), fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.ExpandedDistribution):
        return without_masks(fn.base_dist).expand(fn.batch_shape)
    return fn
