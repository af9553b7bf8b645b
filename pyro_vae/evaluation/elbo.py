"""The test ELBO, its reconstruction term and its KL terms, per datum and per site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Data, Split
from pyro_vae.evaluation.results import EvidenceBound
from pyro_vae.evaluation.session import anything_to_draw, evaluating, positive
from pyro_vae.traces import analytic_sites, log_prob, outside_prior, site_kl

ROWS = 1000  # data times particles at once


def elbo(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data | Split | Mapping[str, Tensor] | Tensor,
    *,
    num_particles: int = 10,
    analytic_kl: bool = True,
    max_plate_nesting: int = 1,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> EvidenceBound:
    r"""E_q[log p(x | z)] - KL(q(z | x) || p(z)) of every datum, with its parts by site.

    Args:
        model, guide: Pyro programs whose per-datum sites are in a plate at dim -1.
        data: as for :func:`~pyro_vae.evaluation.log_likelihood`.
        num_particles: draws per datum for the expectation; one, if the guide has nothing to draw.
        analytic_kl: closed-form KL where one is registered and is the same expectation.
        max_plate_nesting: batch dimensions of the programs' own plates.
        seed: of the draws; the global random state is left as it was.
        device: where to evaluate; the programs' device if None.

    Returns:
        per-datum values in nats; KL terms are raw: without weights, without free bits.

    Raises:
        InputError: for non-positive particles, data out of the likelihood's support, sites that do not match.
    """
    positive("num_particles", num_particles)
    likelihood: dict[str, list[Tensor]] = {}
    kl: dict[str, list[Tensor]] = {}
    missed: list[Tensor] = []  # data with a draw outside the prior's support
    how = {"max_plate_nesting": max_plate_nesting}
    with evaluating(model, guide, data, seed, device, **how) as (programs, split):
        programs.refuse_point_masses()
        if not anything_to_draw(programs, split):
            num_particles = 1
        for batch in split.batches(programs.batch_size(ROWS // num_particles)):
            pair = programs.traces(batch, num_particles)
            for name, site in pair.observed().items():
                value = pair.per_datum(log_prob(site, scaled=False), site)  # (particles, batch)
                likelihood.setdefault(name, []).append(value.double().mean(0))
            closed = analytic_sites(pair) if analytic_kl else set()
            for name, (q, p) in pair.latent().items():
                value = pair.per_datum(site_kl(q, p, analytic=name in closed)[0], q)
                kl.setdefault(name, []).append(value.double().mean(0))
            outside = outside_prior(pair)
            missed.append(torch.zeros(pair.size) if outside is None else outside.any(0).cpu())
            for name, site in pair.guide_factors().items():  # of log q
                value = pair.per_datum(log_prob(site, scaled=False), site)
                kl.setdefault(name, []).append(value.double().mean(0))
    parts = [{k: torch.cat(v).cpu() for k, v in terms.items()} for terms in (likelihood, kl)]
    per_datum = torch.as_tensor(sum(parts[0].values()) - sum(parts[1].values()))
    per_datum = per_datum.masked_fill(torch.cat(missed).bool(), -torch.inf)
    return EvidenceBound(per_datum, *parts, num_particles, split.name, programs.doubts)
