"""Log-densities and KL terms of a pair of traces, per datum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.errors import InputError
from pyro_vae.programs.sites import Site, inside_support, is_delta, kept, masked_like, may_leave, same_masks
from pyro_vae.programs.traces import TracePair


def log_prob(site: Site) -> Tensor:
    """log-density of a site's value in nats, per batch element; masked, without the site's scale."""
    value = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(value, 1.0, site["mask"])


def log_prior(p: Site, q: Site) -> Tensor:
    """log-density of a latent's value under the model, as :func:`log_prob`; -inf where it is outside the support.

    Looked at only where the guide's distribution may leave the support of the model's: then a density's formula gives
    some number outside of it.
    """
    value = log_prob(p)
    if not may_leave(q["fn"], p["fn"]):
        return value
    inside = inside_support(p["fn"], p["value"], kept(p))
    return torch.where(inside, value, -torch.inf)


def analytic_sites(pair: TracePair) -> set[str]:
    """The latent sites whose KL may be taken in closed form, the other sites' samples being held.

    E over z_i of log q(z_i | .) - log p(z_i | .) is a KL only if p's conditional depends on nothing that the
    guide draws after z_i. By the order of the programs: all that the model draws before z_i, the guide has
    drawn before z_i as well. For the other sites the closed form would be a different, biased objective.
    """
    guide_order = list(pair.latent())
    model_order = [n for n in pair.model.nodes if n in pair.latent()]
    sites = set()
    for name in model_order:
        before = set(model_order[: model_order.index(name)])
        if before <= set(guide_order[: guide_order.index(name)]):
            sites.add(name)
    return sites


def site_kl(q: Site, p: Site | None, *, analytic: bool) -> tuple[Tensor, Tensor]:
    """KL of one latent site in nats, per batch element: raw, and as weighted by the sites' scales.

    Closed form where ``analytic``, registered for the two distributions, and of all that they leave out alike, else
    log q(z) - log p(z) at the drawn value. An auxiliary site (``p`` None) contributes log q(z).
    """
    raw = closed_kl(q, p) if p is not None and analytic else None
    if raw is not None:
        raw = scale_and_mask(raw, 1.0, q["mask"])
        return raw, scale_and_mask(raw, q["scale"], None)
    log_q = log_prob(q)
    if p is None:
        return log_q, scale_and_mask(log_q, q["scale"], None)
    log_p = log_prior(p, q)
    weighted = scale_and_mask(log_q, q["scale"], None) - scale_and_mask(log_p, p["scale"], None)
    return log_q - log_p, weighted


def closed_kl(q: Site, p: Site, of: tuple[Any, Any] | None = None) -> Tensor | None:
    """KL in closed form, raw and not masked: where one is registered, and both sites leave out the same; else None.

    Args:
        q, p: the guide's and the model's site.
        of: distributions in place of the sites' own.
    """
    if is_delta(q["fn"]) or not same_masks(q, p):
        return None
    try:
        return kl_divergence(*(of or (q["fn"], p["fn"])))
    except NotImplementedError:
        return None


class Term(NamedTuple):
    """A site's part of an ELBO: log p(x | z) at a data site, KL at a latent one, log q at a factor of the guide.

    Attributes:
        kind: of the three.
        site: the model's, or the guide's.
        raw, weighted: nats per batch element, without and with the sites' scales.
    """

    kind: Literal["data", "latent", "factor"]
    site: Site
    raw: Tensor
    weighted: Tensor


def bound_terms(pair: TracePair, *, analytic: bool) -> Iterator[Term]:
    """What the ELBO of a pair is made of: that of training, and that of evaluation.

    Args:
        pair: traces of one batch.
        analytic: KL in closed form, where it is the same expectation (:func:`analytic_sites`).
    """
    closed = analytic_sites(pair) if analytic else set()
    for site in pair.observed().values():
        raw = log_prob(site)
        yield Term("data", site, raw, scale_and_mask(raw, site["scale"], None))
    for name, (q, p) in pair.latent().items():
        yield Term("latent", q, *site_kl(q, p, analytic=name in closed))
    for site in pair.guide_factors().values():
        raw = log_prob(site)
        yield Term("factor", site, raw, scale_and_mask(raw, site["scale"], None))


def total(terms: list[Tensor]) -> Tensor:
    """Sum of a list of tensors of equal shape (zero-dimensional zero if there are none)."""
    return torch.stack(terms).sum(0) if len(terms) > 1 else (terms[0] if terms else torch.zeros(()))


def check_per_datum(pair: TracePair, name: str) -> None:
    """Refuse a site that all data share, where a density of each datum is asked for.

    Raises:
        InputError: names it.
    """
    if name in pair.shared:
        raise InputError(
            f"site '{name}' is outside the data plate: all data share it, so that p(x) is no product over data and a "
            "bound per datum is not defined. elbo gives a bound on the whole data's log p, per datum, if every datum "
            "is evaluated with it; else put the site into the data plate"
        )


def outside_prior(pair: TracePair) -> Tensor | None:
    """Which particles ``(num_particles, size)`` have a latent outside the support of the model; None: none can.

    Such a particle weighs nothing, whatever the model's networks make of it (often not a number).
    """
    found = None
    for q, p in pair.latent().values():
        if p is not None and may_leave(q["fn"], p["fn"]):
            inside = inside_support(p["fn"], p["value"], kept(p))
            wrong = pair.per_datum(scale_and_mask((~inside).to(torch.get_default_dtype()), 1.0, p["mask"]), p) > 0
            found = wrong if found is None else found | wrong
    return found


def log_weights(pair: TracePair, *, scaled: bool = True) -> Tensor:
    """log w = log p(x, z) - log q(z | x) of every particle and datum, ``(num_particles, size)``, nats.

    Args:
        pair: traces of one batch.
        scaled: apply the sites' scales (KL weights; a subsampled plate's factor is taken out); False: log p, log q.

    Raises:
        InputError: if a latent site is outside the data plate.
    """
    return log_weights_by_site(pair, scaled=scaled)[0]


def log_weights_by_site(
    pair: TracePair, *, scaled: bool = True, guide_sites: dict[str, Site] | None = None
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """log w, and what it is made of: every density is evaluated once.

    Args:
        pair, scaled: as for :func:`log_weights`.
        guide_sites: latent sites to take log q from, in place of the guide trace's.

    Returns:
        log w; raw log p(x | z) of each data site; raw log q(z) - log p(z) of each latent site; all
        ``(num_particles, size)``.

    Raises:
        InputError: if a latent site is outside the data plate.
    """
    subsample = pair.subsample_scale if scaled else 1.0
    parts, observed, kl = [], {}, {}

    def add(site: Site, sign: float, prior_of: Site | None = None) -> Tensor:
        raw = log_prob(site) if prior_of is None else log_prior(site, prior_of)
        weighted = scale_and_mask(raw, site["scale"], None) if scaled else raw
        parts.append(sign * pair.per_datum(weighted, site))
        return pair.per_datum(raw, site)

    for name, site in pair.observed().items():
        observed[name] = add(site, 1.0)
    for name, (q, p) in pair.latent().items():
        check_per_datum(pair, name)
        if guide_sites:
            q = guide_sites[name] if p is None else masked_like(guide_sites[name], p)
        kl[name] = add(q, -1.0)
        if p is not None:
            kl[name] = kl[name] - add(p, 1.0, q)
    for name, site in pair.guide_factors().items():
        check_per_datum(pair, name)
        add(site, -1.0)
    log_w, outside = total(parts) / subsample, outside_prior(pair)
    return log_w if outside is None else torch.where(outside, -torch.inf, log_w), observed, kl
