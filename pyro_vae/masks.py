"""What masks leave out of a site: ``poutine.mask``, or ``fn.mask`` at any place among a distribution's wrappers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions import Independent, MaskedDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.sites import Site

Mask = tuple[Any, int]


def masks_of(site: Site) -> list[Mask]:
    """A site's masks, the outermost first, each with the number of event dimensions that it sees as batch dimensions.

    A mask of ``.to_event(1).mask(m)`` sees none, one of ``.mask(m).to_event(1)`` sees one.

    Raises:
        InputError: if a mask is inside a transformed distribution or a mixture, or has more dimensions than the site.
    """
    masks: list[Mask] = [(site["mask"], 0)]
    fn, seen = site["fn"], 0
    while isinstance(fn, (torch.distributions.Independent, MaskedDistribution, ExpandedDistribution)):
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
    if isinstance(fn, MaskedDistribution):
        return without_masks(fn.base_dist)
    if isinstance(fn, torch.distributions.Independent):
        return Independent(without_masks(fn.base_dist), fn.reinterpreted_batch_ndims)
    if isinstance(fn, ExpandedDistribution):
        return without_masks(fn.base_dist).expand(fn.batch_shape)
    return fn


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
