"""The KL of a latent site, unit by unit."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from pyro_vae.masks import kept, same_masks
from pyro_vae.sites import Site, inside_support, is_delta, may_leave


class UnitKL(NamedTuple):
    """KL of the units of a latent site.

    Attributes:
        value: nats, ``(*batch, *units)``.
        dims: how many dimensions the units take.
        closed_form: whether it is a closed form, else log q(z) - log p(z) at the drawn value.
    """

    value: Tensor
    dims: int
    closed_form: bool


def unit_kl(q: Site, p: Site, *, analytic: bool) -> UnitKL:
    r"""KL of each unit of a site, raw: neither weighted nor clamped.

    .. math:: KL(q \,\|\, p) = \sum_d KL(q_d \,\|\, p_d) \quad \text{for } q = \prod_d q_d,\ p = \prod_d p_d

    The units are the event dimensions that both distributions declare independent (``.to_event``); a site without
    such, e.g. a multivariate Gaussian, is one unit.

    Args:
        q, p: the guide's and the model's site.
        analytic: take the closed form where one is registered with ``torch.distributions.kl``.
    """
    (q_base, q_dims), (p_base, p_dims) = _factors(q["fn"]), _factors(p["fn"])
    dims = min(q_dims, p_dims)
    if q["fn"].event_dim != p["fn"].event_dim:
        dims, q_fn, p_fn = 0, q["fn"], p["fn"]
    else:
        q_fn, p_fn = (_grouped(base, own - dims) for base, own in ((q_base, q_dims), (p_base, p_dims)))
    if analytic and not is_delta(q["fn"]) and same_masks(q, p):
        try:
            value = kl_divergence(q_fn, p_fn)
        except NotImplementedError:
            pass
        else:
            return UnitKL(_masked(value, q["mask"], dims), dims, True)
    log_p = p_fn.log_prob(p["value"])
    if may_leave(q["fn"], p["fn"]):
        inside = inside_support(p["fn"], p["value"], kept(p))
        log_p = torch.where(inside.reshape(*inside.shape, *(1,) * dims), log_p, -torch.inf)
    log_q, log_p = _masked(q_fn.log_prob(q["value"]), q["mask"], dims), _masked(log_p, p["mask"], dims)
    return UnitKL(log_q - log_p, dims, False)


def _factors(fn: Any) -> tuple[Any, int]:
    """What a distribution is a product of, and over how many dimensions."""
    dims = 0
    while isinstance(fn, torch.distributions.Independent):
        dims += fn.reinterpreted_batch_ndims
        fn = fn.base_dist
    return fn, dims


def _grouped(fn: Any, dims: int) -> Distribution:
    return fn.to_event(dims) if dims else fn


def _masked(value: Tensor, mask: Any, dims: int) -> Tensor:
    """Zero where a site's mask, ``(*batch)``, is False."""
    if isinstance(mask, Tensor):
        mask = mask.reshape(mask.shape + (1,) * dims)
    return scale_and_mask(value, 1.0, mask)
