"""A cache of a guide's distributions that are the same for all particles, as tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.programs.traces import Site, TracePair, is_latent
from pyro_vae.recording import NotRecordable, forget, seen_by

_MADE_OF_TENSORS = (torch.distributions.Distribution, torch.distributions.Transform)


def independent_of_particles(pair: TracePair) -> bool:
    """Whether the guide's distributions are the same for all particles, so that they can be drawn from again.

    What was computed from another site's samples has the plate of particles as its first dimension. In doubt the
    answer is no: then the guide is run again, which is right for any guide. So it is for distributions that hold
    anything but tensors and plain numbers: modules (flows), functions, dicts.
    """
    if pair.guide_factors() or (pair.num_particles == 1 and len(pair.latent()) > 1):
        return False
    return all(_same_for_all(_own(q), pair.num_particles) for q, _ in pair.latent().values())


def site_tensors(site: Site) -> Iterator[Tensor]:
    """What a site's distribution, scale and mask are made of, in a fixed order.

    Raises:
        NotRecordable: if the distribution holds a number taken from a tensor that is being recorded.
    """
    return _tensors(_own(site))


def rebuilt_site(site: Site, tensors: Iterator[Tensor]) -> Site:
    """The same site made of other tensors, in the order of :func:`site_tensors`."""
    fn, scale, mask = _rebuilt(_own(site), tensors)
    return {**site, "fn": fn, "scale": scale, "mask": mask}


def rebuilt_trace(template: Trace, tensors: Iterator[Tensor], value: Callable[[str, Any], Tensor]) -> Trace:
    """A guide's trace with its latent sites made of other tensors, and other values.

    Args:
        template: the trace.
        tensors: of its latent sites, one after another, in the order of :func:`site_tensors`.
        value: of a latent site, from its name and its distribution.
    """
    trace = Trace()
    for name, site in template.nodes.items():
        if is_latent(site):
            site = rebuilt_site(site, tensors)
            site["value"] = value(name, site["fn"])
        trace.add_node(name, **site)
    if next(tensors, None) is not None:
        raise RuntimeError("a guide's distributions were made of more tensors than they are now")
    return trace


def site_numbers(site: Site) -> tuple:
    """What a site's distribution, scale and mask are made of besides tensors: numbers, sizes, names of classes.

    Two sites of which this is equal differ in nothing but :func:`site_tensors`.
    """
    return tuple(_numbers(_own(site)))


def _own(site: Site) -> tuple:
    """What of a site may depend on the data."""
    return site["fn"], site["scale"], site["mask"]


def _same_for_all(value: Any, particles: int) -> bool:
    """Whether nothing in a distribution (or in its transforms, in lists, in wrapped ones) differs between particles."""
    if isinstance(value, Tensor):
        dim = next((i for i, size in enumerate(value.shape) if size != 1), None)
        return dim is None or value.shape[dim] != particles or value.stride(dim) == 0
    if isinstance(value, (list, tuple)):
        return all(_same_for_all(v, particles) for v in value)
    if isinstance(value, _MADE_OF_TENSORS):
        return all(_same_for_all(v, particles) for v in _content(value).values())
    return value is None or isinstance(value, (bool, int, float, str))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors that a distribution is made of, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (torch.SymFloat, torch.SymInt, torch.SymBool)):
        raise NotRecordable("a distribution of the guide holds a number taken from a tensor")
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _tensors(v)
    elif isinstance(value, _MADE_OF_TENSORS):
        for v in _content(value).values():
            yield from _tensors(v)


def _numbers(value: Any) -> Iterator[Any]:
    """What a distribution is made of besides tensors, in a fixed order."""
    if isinstance(value, (list, tuple)):
        yield len(value)
        for v in value:
            yield from _numbers(v)
    elif isinstance(value, _MADE_OF_TENSORS):
        yield type(value)
        for name, v in _content(value).items():
            yield name
            yield from _numbers(v)
    elif not isinstance(value, Tensor):
        yield value


def _rebuilt(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same distribution made of other tensors, in the order of :func:`_tensors`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(_rebuilt(v, tensors) for v in value)
    if isinstance(value, _MADE_OF_TENSORS):
        other = copy.copy(value)
        if isinstance(value, torch.distributions.Transform):
            forget(other)
        other.__dict__.update({k: _rebuilt(v, tensors) for k, v in _content(value).items()})
        return other
    return value


def _content(value: Any) -> dict[str, Any]:
    """What a distribution or a transform is, without what a transform has seen."""
    seen = seen_by(value) if isinstance(value, torch.distributions.Transform) else ()
    return {k: v for k, v in vars(value).items() if k not in seen}
