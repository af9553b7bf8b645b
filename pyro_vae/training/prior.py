"""Train a prior over a real latent of a pair that has been trained."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.data import Data, DataLike, as_data
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo
from pyro_vae.programs.held import held
from pyro_vae.programs.inside import reconnect
from pyro_vae.programs.program import Program, as_programs
from pyro_vae.programs.session import check_pair, in_evaluation, named
from pyro_vae.programs.site_priors import (
    ROWS,
    GuideOfSite,
    PriorOfSite,
    WithPriors,
    check_context_of,
    site_to_replace,
)
from pyro_vae.programs.traces import traced
from pyro_vae.runtime import private_seed
from pyro_vae.training.batches import EpochBatches
from pyro_vae.training.fitting import FitResult, fit
from pyro_vae.training.schedules import owner

logger = logging.getLogger(__name__)

COMPARED = 1000  # data, of which the KL is told under both priors
STARTED_FROM, BATCH = 5_000, 500  # data whose draws a prior starts at


def fit_prior(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    prior: nn.Module,
    *,
    site: str | None = None,
    start_at_draws: bool = False,
    **options: Any,
) -> FitResult:
    r"""Fit a prior over a latent of a trained pair to the guide's draws, and put it into the model.

    .. math:: \max_p \; E_{data} E_{q(z | x)} \log p(z), \quad \text{as the least} \quad KL(q(z | x) \| p(z))

    by which log p(x)'s bound rises as much as the KL falls. Draws are fresh at every step. The model's other densities
    and the guide stay as they are; what is told while it trains is the KL, nats per datum.

    Args:
        model, guide: the trained pair.
        data: as for :func:`~pyro_vae.fit`; with a validation part, ``patience`` stops early.
        prior: a module whose call gives a distribution of the site's event shape, such as
            :class:`~pyro_vae.priors.MixturePrior`; it is trained in place.
        site: the latent site; None: the first in the model's order whose distribution depends on no other site.
        start_at_draws: a prior with a method ``start_at``, such as a mixture, is given the guide's draws of 5,000
            training data first, to start where they are, whatever it was before; others start as they are.
        options: of :func:`~pyro_vae.fit`, but for ``objective``: epochs, learning_rate, patience, seed, out, ….

    Returns:
        the result of training, whose ``model`` is the model with the prior, and whose ``guide`` is the guide.

    Raises:
        InputError: as :func:`~pyro_vae.fit`; for a site that cannot have another prior, which is said by name: one that
            depends on other draws, is discrete, summed over, masked or shared by all data, or at which the guide is a
            point mass; for a prior of another shape, or one that is given what the model does not take.

    Source: Tomczak & Welling 2018, arXiv:1705.07120 (the best prior is the aggregated posterior).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> prior = pyro_vae.priors.MixturePrior((2,), num_components=3)
        >>> result = pyro_vae.fit_prior(model, guide, x, prior, epochs=2, device="cpu", progress=False)
        >>> pyro_vae.sample(result.model, 5)["z"].shape
        torch.Size([5, 2])
    """
    if options.get("objective") is not None:
        raise InputError("objective: a prior is trained by the KL of the guide from it, and has no other")
    data = as_data(named(data, model), options.get("num_workers", 0))
    programs = as_programs(model, guide)
    site, _ = site_of_prior(*programs, data, prior, site)
    alone = PriorOfSite(site, prior), GuideOfSite(site, programs[1])
    reconnect(*alone)
    if start_at_draws and hasattr(prior, "start_at"):
        seed = options.get("seed", 0)
        with private_seed(seed):
            prior.start_at(_draws(alone[1], data, seed))
    try:
        with held((), programs[1].parameters()):
            result = fit(*alone, data, **options)
    finally:
        reconnect(prior, programs[1])
    device = next((tensor.device for tensor in (*prior.parameters(), *prior.buffers())), None)
    for program in programs if device is not None else ():
        program.to(device)
    both = WithPriors(owner(programs[0]), {site: prior}).eval()
    _tell_gain(site, owner(programs[0]), both, owner(programs[1]), data)
    return replace(result, model=both, guide=owner(programs[1]).eval())


def _draws(guide: GuideOfSite, data: Data, seed: int) -> Tensor:
    """Draws of the site for the first batches of training data, ``(5,000 or fewer, *event)``."""
    batches, found = EpochBatches(data.train, BATCH, seed), list[Tensor]()
    for index in range(min(len(batches), STARTED_FROM // BATCH)):
        rows = batches.batch(0, index)
        with in_evaluation([guide.guide], rows, seed=seed + index) as batch:
            found.append(traced(guide, **batch).nodes[guide.site]["value"].cpu())
    return torch.cat(found)


def _tell_gain(site: str, before: nn.Module, after: nn.Module, guide: nn.Module, data: Data) -> None:
    """Log the KL under the prior that the model had and under the new one; a warning if it has risen."""
    which, part = ("training", data.train) if data.validation is None else ("validation", data.validation)
    rows = part.batch(slice(0, COMPARED))
    both = (elbo(model, guide, rows, analytic_kl=False) for model in (before, after))  # at the same draws
    old, new = (bound.kl[site].mean().item() for bound in both)
    told = f"KL at '{site}' of {which} data: {new:.3f} nats under the new prior, {old:.3f} under the one before"
    if new > old:
        logger.warning("%s: the new one is worse; train it longer, or leave it out", told)
    else:
        logger.info("%s", told)


def site_of_prior(
    model: Program, guide: Program, data: Data, prior: nn.Module | None, site: str | None
) -> tuple[str, tuple[int, ...]]:
    """The site that a prior is for, and its event shape; data, and the prior if there is one, are checked.

    Raises:
        InputError: as :func:`fit_prior`.
    """
    for part in (data.train, data.validation):
        if part is not None:
            check_pair(model, guide, part)
    with in_evaluation([model, guide], data.train.batch(slice(0, ROWS)), seed=0) as batch:
        site, shape = site_to_replace(model, guide, batch, site)
    if prior is not None:
        check_context_of(site, prior, model)
        own = tuple(getattr(prior, "shape", shape))
        if own != tuple(shape):
            raise InputError(
                f"latent site '{site}' has event shape {tuple(shape)}, and the {type(prior).__name__} is over "
                f"{own}: build it with shape={list(shape)}"
                if shape
                else f"latent site '{site}' is of single numbers, and the {type(prior).__name__} is over {own}: give "
                "the site an event dimension in model and guide, fn.expand([1]).to_event(1)"
            )
    return site, tuple(shape)
