"""What one site of a trace says: its support, its masks, and what kind of distribution it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Independent, MaskedDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.errors import InputError

Site = dict[str, Any]
REAL = (constraints.real, constraints.real_vector)
ANGLE = constraints.interval(-math.pi, math.pi)
_ANGLES = (dist.VonMises, torch.distributions.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)


WRAPPERS = (torch.distributions.Independent, MaskedDistribution, ExpandedDistribution)


def innermost(fn: Any) -> Any:
    """A distribution inside its wrappers (independent, expanded, masked)."""
    while hasattr(fn, "base_dist") and not isinstance(fn, torch.distributions.TransformedDistribution):
        fn = fn.base_dist
    return fn


def factors(fn: Any) -> tuple[Any, int]:
    """What a distribution is a product of, and over how many of its dimensions."""
    dims = 0
    while isinstance(fn, torch.distributions.Independent):
        fn, dims = fn.base_dist, dims + fn.reinterpreted_batch_ndims
    return fn, dims


def rewrapped(fn: Any, change: Callable[[Any], Any | None], *, masks: bool = True) -> Any | None:
    """A distribution changed inside its wrappers (independent, expanded, masked).

    Args:
        fn: the distribution.
        change: makes another one of what is inside; None: there is none.
        masks: keep the masks.
    """
    if not isinstance(fn, WRAPPERS):
        return change(fn)
    base = rewrapped(fn.base_dist, change, masks=masks)
    if base is None:
        return None
    if isinstance(fn, torch.distributions.Independent):
        return Independent(base, fn.reinterpreted_batch_ndims)
    if isinstance(fn, MaskedDistribution):
        return MaskedDistribution(base, fn._mask) if masks else base
    return base.expand(fn.batch_shape)


def elementwise(constraint: Any) -> Any:
    """The constraint on each number, inside those that make it one of events or of mixtures."""
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return constraint


def in_data_plate(site: Site) -> bool:
    """Whether a site has a value per datum."""
    return any(frame.dim == -1 for frame in site["cond_indep_stack"])


def density_of(site: Site) -> str | None:
    """What a data site's numbers are a density of, where that is not the data but a function of them; else None.

    A program says it by ``infer={"density_of": "features conv1 of x"}``.
    """
    said = site["infer"].get("density_of")
    return None if said is None else str(said)


def of_functions(said: Iterable[str | None]) -> list[str]:
    """A sentence, if data sites are densities of functions of the data: of what these nats are, and of what not.

    Args:
        said: what each of the sites is a density of (:func:`density_of`).
    """
    functions = [of for of in said if of]
    if not functions:
        return []
    return [
        f"these nats are of a density of {', '.join(functions)}, and not of x: no log p(x), and to be "
        "compared with those of the same functions alone"
    ]


def data_first(value: Tensor, site: Site) -> Tensor:
    """Bring a site's value ``(..., batch, *event)`` to ``(batch, ..., *event)``."""
    return value.movedim(value.dim() - 1 - site["fn"].event_dim, 0)


def mean_of(site: Site) -> Tensor:
    """The mean of a site's distribution where it has one, else the site's value; ``(batch, ..., *event)``.

    A distribution whose numbers are drawn one after another may have a method ``mean_along(value)``: each number's mean
    given those of the value before it. Along a draw it is as much as is known of the mean, which it has on average.
    """
    along = getattr(innermost(site["fn"]), "mean_along", None)
    mean = mean_or_none(site["fn"]) if along is None else along(site["value"])
    return data_first(site["value"] if mean is None else mean, site)


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
        return elementwise(fn.support)
    except (NotImplementedError, AttributeError):
        return None


def of_angles(fn: Any) -> bool:
    """Whether a distribution is one of angles, or a mixture of such.

    It calls the real line its support, where its density is periodic; what it draws, and what its density integrates
    to one over, are angles between -pi and pi.
    """
    fn = innermost(fn)
    if isinstance(fn, torch.distributions.MixtureSameFamily):
        return of_angles(fn.component_distribution)
    return isinstance(fn, _ANGLES)


def is_point_mass(fn: Any) -> bool:
    """Whether a distribution has one value only, whatever the noise: a Delta without a density of its own."""
    fn = innermost(fn)
    if isinstance(fn, torch.distributions.TransformedDistribution):
        return is_point_mass(fn.base_dist)
    return isinstance(fn, dist.Delta) and not bool(fn.log_density.any())


def mean_or_none(fn: Any) -> Tensor | None:
    """A distribution's mean, or None if it has none; a point mass at integers has none, for they are names."""
    try:
        mean = fn.mean
    except (NotImplementedError, AttributeError):
        return None
    if not mean.is_floating_point():
        return None
    return None if bool(mean.isnan().any()) else mean  # nan: torch's way to say so, e.g. of Categorical


def deviation_or_none(fn: Any) -> Tensor | None:
    """The standard deviation of each number of a distribution; None if it has none, or it is one of angles."""
    try:
        variance = None if of_angles(fn) else fn.variance
    except (NotImplementedError, AttributeError):
        return None
    if variance is None or not variance.is_floating_point() or bool(variance.isnan().any()):
        return None
    return variance.sqrt()


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
        (low, high), (least, most) = bounds  # pyright: ignore[reportGeneralTypeIssues]
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


Mask = tuple[Any, int]


def masks_of(site: Site) -> list[Mask]:
    """A site's masks, the outermost first, each with the number of event dimensions that it sees as batch dimensions.

    A mask of ``.to_event(1).mask(m)`` sees none, one of ``.mask(m).to_event(1)`` sees one.

    Raises:
        InputError: if a mask is inside a transformed distribution or a mixture, or has more dimensions than the site.
    """
    masks: list[Mask] = [(site["mask"], 0)]
    fn, seen = site["fn"], 0
    while isinstance(fn, WRAPPERS):
        if isinstance(fn, torch.distributions.Independent):
            seen += fn.reinterpreted_batch_ndims
        elif isinstance(fn, MaskedDistribution):
            masks.append((fn._mask, seen))
        fn = fn.base_dist
    if any(isinstance(inner, MaskedDistribution) for inner in _inside(fn)):
        raise InputError(
            f"site '{site['name']}': a mask inside of {type(fn).__name__} leaves out only a part of its density: mask "
            "the whole distribution, .mask(m) after it is made"
        )
    rank = len(site["fn"].batch_shape)
    for mask, more in masks:
        if isinstance(mask, Tensor) and mask.dim() > rank + more:
            raise InputError(
                f"site '{site['name']}': a mask of shape {tuple(mask.shape)} for batch shape "
                f"{tuple(site['fn'].batch_shape)}: to leave out elements of an event, mask the distribution before it "
                "is made one, .mask(m).to_event(1)"
            )
    return [(mask, more) for mask, more in masks if mask is not None and mask is not True]


def kept(site: Site) -> Tensor | None:
    """Which numbers of a site's value have a density, in the value's shape; None: all of them."""
    masks = masks_of(site)
    if not masks:
        return None
    fn = site["fn"]
    shape = fn.batch_shape + fn.event_shape
    result = torch.ones((), dtype=torch.bool, device=site["value"].device)
    for mask, more in masks:
        mask = torch.as_tensor(mask, device=result.device).bool()
        result = result & mask.reshape(mask.shape + (1,) * (len(fn.event_shape) - more))
    return result.expand(shape)


def same_masks(q: Site, p: Site) -> bool:
    """Whether two sites leave out the same elements, as far as it can be told without a look at the masks' values."""
    ours, theirs = masks_of(q), masks_of(p)
    return len(ours) == len(theirs) and all(
        i == j and _same_memory(a, b) for (a, i), (b, j) in zip(ours, theirs, strict=True)
    )


def masked_like(q: Site, p: Site) -> Site:
    """A guide's site with the masks of the model's site that leave out whole batch elements.

    What the model leaves out is not there: labels that are observed (``obs_mask``), steps beyond a sequence's end. The
    guide may sample it all the same.
    """
    own = [mask for mask, more in masks_of(q) if more == 0]
    for mask, more in masks_of(p):
        if more == 0 and not any(_same_memory(mask, other) for other in own):
            q = {**q, "mask": mask if q["mask"] is None or q["mask"] is True else q["mask"] & mask}
    return q


def without_masks(fn: Any) -> Any:
    """A distribution without the masks in its wrappers."""
    return rewrapped(fn, lambda base: base, masks=False)


def _same_memory(a: Any, b: Any) -> bool:
    """Whether two masks are one and the same, or the same view of it."""
    if a is b or not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return a is b
    ours, theirs = ((t.untyped_storage()._cdata, t.storage_offset(), t.shape, t.stride(), t.dtype) for t in (a, b))
    return ours == theirs


def _inside(fn: Any) -> Iterator[Any]:
    """A distribution and those that it is made of."""
    yield fn
    for name in ("base_dist", "_component_distribution", "_mixture_distribution"):
        inner = getattr(fn, name, None)
        if inner is not None:
            yield from _inside(inner)
