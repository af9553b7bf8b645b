"""What masks leave out of a site: by ``poutine.mask``, or by ``fn.mask`` at any place among a distribution's wrappers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.traces import Site, TracePair

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
                f"{tuple(site['fn'].batch_shape)}: to leave out elements of an event, mask the distribution before it is "
                "made one, .mask(m).to_event(1)"
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


def check_masks(pair: TracePair) -> None:
    """Check that model and guide leave out the same elements of the latents.

    Raises:
        InputError: names a site where they do not. What only the guide leaves out is missing from log q, and what only
            the model leaves out has no finite p(x). A guide with a factor may say there what its masks leave out.
    """
    for name, (q, p) in pair.latent().items():
        if p is None:
            continue
        whole = torch.ones((), dtype=torch.bool, device=q["value"].device)
        ours, theirs = (whole if mask is None else mask for mask in (kept(q), kept(p)))
        missing = bool((theirs & ~ours).any()) and not pair.guide_factors()
        if missing or bool((ours & ~theirs).any()):
            who = ("guide", "model") if missing else ("model", "guide")
            raise InputError(
                f"latent site '{name}': a mask of the {who[0]} leaves out elements that the {who[1]} counts, which is no "
                "density of the same latents: give both programs the same mask"
            )


def _inside(fn: Any) -> Iterator[Any]:
    """A distribution and those that it is made of."""
    yield fn
    for name in ("base_dist", "_component_distribution", "_mixture_distribution"):
        inner = getattr(fn, name, None)
        if inner is not None:
            yield from _inside(inner)
