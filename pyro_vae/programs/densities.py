"""Log-densities and KL terms of a pair of traces, per datum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    guide draws, or enumerates, after z_i. By the order of the programs: all that the model has before z_i, the guide
    has before z_i as well. For the other sites the closed form would be a different, biased objective.
    """
    latent = pair.latent()
    both = {*latent, *pair.enumerated()}
    guide_order, model_order = ([n for n in trace.nodes if n in both] for trace in (pair.guide, pair.model))
    sites = set()
    for name in model_order:
        before = set(model_order[: model_order.index(name)])
        if name in latent and before <= set(guide_order[: guide_order.index(name)]):
            sites.add(name)
    return sites


How = Literal["sampled", "closed", "summed"]


def site_kl(q: Site, p: Site | None, *, analytic: bool, drawn: bool = False) -> tuple[Tensor, Tensor, How]:
    """KL of one latent site in nats, per batch element: raw, as weighted by the sites' scales, and how it was taken.

    Closed form where ``analytic``, registered for the two distributions, and of all that they leave out alike, else
    log q(z) - log p(z) at the drawn value. An auxiliary site (``p`` None) contributes log q(z). Where z is drawn
    without reparameterized samples (``drawn``), log q(z) has no gradient: that of its mean is zero.
    """
    raw = closed_kl(q, p) if p is not None and analytic else None
    if raw is not None:
        raw = scale_and_mask(raw, 1.0, q["mask"])
        return raw, scale_and_mask(raw, q["scale"], None), "closed"
    log_q = log_prob(q).detach() if drawn else log_prob(q)
    if p is None:
        return log_q, scale_and_mask(log_q, q["scale"], None), "sampled"
    log_p = log_prior(p, q)
    weighted = scale_and_mask(log_q, q["scale"], None) - scale_and_mask(log_p, p["scale"], None)
    return log_q - log_p, weighted, "sampled"


def closed_kl(q: Site, p: Site, of: tuple[Any, Any] | None = None) -> Tensor | None:
    """KL in closed form, raw and not masked: where one is registered, and both sites leave out the same; else None.

    Args:
        q, p: the guide's and the model's site.
        of: distributions in place of the sites' own.
    """
    if is_delta(q["fn"]) or not same_masks(q, p):
        return None
    fns = of or (q["fn"], p["fn"])
    try:
        if fns[0].batch_shape != fns[1].batch_shape:  # values that are summed over may stand in one of them alone
            shape = torch.broadcast_shapes(*(fn.batch_shape for fn in fns))
            fns = fns[0].expand(shape), fns[1].expand(shape)
        return kl_divergence(*fns)
    except NotImplementedError:
        return None


class Term(NamedTuple):
    """A site's part of an ELBO: log p(x | z) at a data site, KL at a latent one, log q at a factor of the guide.

    Attributes:
        kind: of the three.
        site: the model's, or the guide's.
        raw, weighted: nats of each particle and datum, ``(num_particles, size)``, without and with the sites' scales.
        how: it was taken: at the drawn values, in closed form, or as a part of a sum over discrete latents.
    """

    kind: Literal["data", "latent", "factor"]
    site: Site
    raw: Tensor
    weighted: Tensor
    how: How = "sampled"


def bound_terms(pair: TracePair, *, analytic: bool) -> Iterator[Term]:
    """What the ELBO of a pair is made of: that of training, and that of evaluation.

    Args:
        pair: traces of one batch.
        analytic: KL in closed form, where it is the same expectation (:func:`analytic_sites`).
    """

    def term(
        kind: Literal["data", "latent", "factor"], site: Site, raw: Tensor, weighted: Tensor, how: How = "sampled"
    ) -> Term:
        same = weighted is raw
        raw = pair.per_datum(raw, site)
        return Term(kind, site, raw, raw if same else pair.per_datum(weighted, site), how)

    def drawn(q: Site) -> bool:
        """Whether a guide's site is drawn without reparameterized samples, so that log q has no gradient here."""
        return q["name"] not in pair.sums.guide and not q["fn"].has_rsample

    closed = analytic_sites(pair) if analytic else set()
    sums = _Sums(pair, pair.sums.model)
    for site in pair.observed().values():
        raw = log_prob(site)
        if not sums.take(site, raw):
            yield term("data", site, raw, scale_and_mask(raw, site["scale"], None))
    for name, (q, p) in {**pair.latent(), **pair.enumerated()}.items():
        if p is None or not sums.take(p, log_prior(p, q), q):
            yield term("latent", q, *site_kl(q, p, analytic=name in closed, drawn=drawn(q)))
    for site in pair.guide_factors().values():
        raw = log_prob(site)
        yield term("factor", site, raw, scale_and_mask(raw, site["scale"], None))
    for site, q, log_p in sums.terms():
        weighted = _scaled(log_p, site)
        if q is None:
            yield Term("data", site, log_p, weighted, "summed")
        else:
            log_q = log_prob(q).detach() if drawn(q) else log_prob(q)
            log_q, weighted_q = (pair.per_datum(v, q) for v in (log_q, scale_and_mask(log_q, q["scale"], None)))
            yield Term("latent", q, log_q - log_p, weighted_q - weighted, "summed")


def told_together(pair: TracePair) -> dict[str, str]:
    """The name under which the KL of each latent site is told: its own, but for functions of the guide's own sites.

    ``AutoNormal`` draws u and has w = f(u) as a point mass with a density: -log p(w) and log q(u) alone are no KL,
    their sum is, that of w. Where several w are functions of one u they have one KL.
    """
    latent = pair.latent()
    functions = [
        name for name, (q, p) in latent.items() if p is not None and is_delta(q["fn"]) and not is_delta(p["fn"])
    ]
    told = {name: name for name in latent}
    rest = [name for name, (q, p) in latent.items() if p is None and not is_delta(q["fn"])]
    own = {u: u.removesuffix("_unconstrained") for u in rest if u.removesuffix("_unconstrained") in functions}  # Pyro's
    told |= own
    rest, left = [u for u in rest if u not in own], [w for w in functions if w not in own.values()]
    together = {*rest, *left}
    if rest and left and (together <= pair.shared or not together & pair.shared):
        told |= dict.fromkeys(together, ", ".join(left))
    return told


def model_densities(pair: TracePair, latents: Sequence[str]) -> tuple[Tensor, Tensor]:
    """log p(z) of latent sites and log p(x | z) of all data sites and factors, ``(num_particles, size)`` each.

    Args:
        pair: of which the model's trace is looked at.
        latents: names.
    """
    sums = _Sums(pair, pair.sums.model)
    prior, observed = [], []
    for into, sites in ((observed, pair.observed().values()), (prior, [pair.model.nodes[name] for name in latents])):
        for site in sites:
            raw = log_prob(site)
            if not sums.take(site, raw, site if into is prior else None):
                into.append(pair.per_datum(raw, site))
    for _, latent, value in sums.terms():
        (observed if latent is None else prior).append(value)
    return total(prior), total(observed)


class _Sums:
    """Sites whose densities depend on latents that are summed over.

    Args:
        pair: traces of one batch.
        summed: the latents.
    """

    def __init__(self, pair: TracePair, summed: frozenset[str]) -> None:
        self.tables = pair.tables(summed) if summed else None
        self.factors: dict[str, list[Any]] = {}
        self.sites: dict[str, tuple[Site, Site | None]] = {}

    def take(self, site: Site, value: Tensor, q: Site | None = None) -> bool:
        """Keep a log-density for the sum, if it depends on what is summed.

        Args:
            site: the model's.
            value: raw, of the site.
            q: the guide's, of a latent.
        """
        if self.tables is None or not self.tables.depends(factor := self.tables.packed(value, site)):
            return False
        self.factors.setdefault(site["name"], []).append(factor)
        self.sites.setdefault(site["name"], (site, q))
        return True

    def terms(self) -> Iterator[tuple[Site, Site | None, Tensor]]:
        """What each of the sites adds to the log of the sum, latents before data, with the guide's site of a latent."""
        if self.tables is None:
            return
        order = sorted(self.factors, key=lambda name: self.sites[name][1] is None)
        for names, value in self.tables.chains({name: self.factors[name] for name in order}).items():
            site, q = self.sites[names[0]]
            name = ", ".join(names) if len(names) <= 3 else f"{names[0]}, …, {names[-1]}"
            yield {**site, "name": name}, None if q is None else {**q, "name": name}, value


def _scaled(value: Tensor, site: Site) -> Tensor:
    """A per-datum value times the scale of its site, which must be one number."""
    scale = site["scale"]
    if isinstance(scale, Tensor) and scale.numel() > 1:
        raise InputError(
            f"site '{site['name']}' has a scale for each element, and its density is a part of a sum over discrete "
            "latents: one scale for all is wanted (poutine.scale with a number)"
        )
    return value * scale


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
            "bound per datum is not defined. elbo gives a bound on the whole data's log p, per datum; log_likelihood "
            "averages log p(x | .) over the guide's draws of it; else put the site into the data plate"
        )


def outside_prior(pair: TracePair) -> Tensor | None:
    """Which particles ``(num_particles, size)`` have a latent outside the support of the model; None: none can.

    Such a particle weighs nothing, whatever the model's networks make of it (often not a number).
    """
    found = None
    for q, p in pair.latent().values():
        if p is not None and may_leave(q["fn"], p["fn"]):
            inside = inside_support(p["fn"], p["value"], kept(p))
            if inside.dim() > -pair.particle_dim and pair.sums:
                continue  # weighs nothing in the sum
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
    sums = _Sums(pair, pair.sums.names)
    parts, observed, kl = [], {}, {}

    def add(site: Site, sign: float, raw: Tensor) -> Tensor:
        weighted = scale_and_mask(raw, site["scale"], None) if scaled else raw
        parts.append(sign * pair.per_datum(weighted, site))
        return pair.per_datum(raw, site)

    for name, site in pair.observed().items():
        raw = log_prob(site)
        if not sums.take(site, raw):
            observed[name] = add(site, 1.0, raw)
    for name, (q, p) in pair.latent().items():
        check_per_datum(pair, name)
        if guide_sites:
            q = {**guide_sites[name], "infer": q["infer"]}
            q = q if p is None else masked_like(q, p)
        log_q = log_prob(q)
        log_p = None if p is None else log_prior(p, q)
        kl[name] = 0.0 if sums.take(q, -log_q, q) else add(q, -1.0, log_q)
        if p is not None and log_p is not None and not sums.take(p, log_p, q):
            kl[name] = kl[name] - add(p, 1.0, log_p)
    for name, site in pair.guide_factors().items():
        check_per_datum(pair, name)
        raw = log_prob(site)
        if not sums.take(site, -raw, site):
            add(site, -1.0, raw)
    for site, q, value in sums.terms():
        parts.append(_scaled(value, site) if scaled else value)
        if q is None:
            observed[site["name"]] = value
        else:
            kl[site["name"]] = kl.get(site["name"], 0.0) - value
    log_w, outside = total(parts) / subsample, outside_prior(pair)
    return log_w if outside is None else torch.where(outside, -torch.inf, log_w), observed, kl
