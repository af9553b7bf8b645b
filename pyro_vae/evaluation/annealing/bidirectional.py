"""Bidirectional Monte Carlo: log p(x) from below and from above, on data that the model has drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.errors import InputError, positive
from pyro_vae.evaluation.annealing.ais import Annealing
from pyro_vae.evaluation.annealing.chains import Schedule, Weights, backwards, forwards
from pyro_vae.evaluation.annealing.path import AnnealedPath, Start
from pyro_vae.evaluation.annealing.results import BidirectionalBounds
from pyro_vae.evaluation.chunks import MEMORY_BUDGET
from pyro_vae.evaluation.generate import draw
from pyro_vae.programs.context import X, accepted_arguments, required_arguments
from pyro_vae.programs.densities import check_per_datum
from pyro_vae.programs.enumeration import summed_sites
from pyro_vae.programs.program import Program, as_programs
from pyro_vae.programs.session import as_batch, evaluating, in_evaluation
from pyro_vae.programs.shared import shared_latents
from pyro_vae.programs.traces import is_latent, traced
from pyro_vae.recording import Compile
from pyro_vae.runtime import SEEDS, as_device, check_seed, private_seed


def bidirectional(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    num_data: int = 100,
    *,
    batch: Mapping[str, Tensor] | None = None,
    num_chains: int = 16,
    num_temperatures: int = 2000,
    num_leapfrog: int = 3,
    schedule: Schedule | Sequence[float] = "sigmoid",
    start: Start = "guide",
    memory_budget: int = MEMORY_BUDGET,
    vectorize: bool = True,
    seed: int = 0,
    device: str | torch.device | None = None,
    compile: Compile = "auto",
    progress: bool = False,
) -> BidirectionalBounds:
    r"""Lower and upper bounds on log p(x) of data drawn from the model, and the gap between them.

    .. math:: E \log \frac1C \sum_c w_c \;\le\; E \log p(x) \;\le\; -E \log \frac1C \sum_c \frac1{w'_c}, \quad
              (z, x) \sim p(z, x)

    with w of chains as in :func:`~pyro_vae.evaluation.ais`, and w' of the same chains run backwards from the z that x
    was made of, which is an exact sample of the posterior. Both have the same transitions. The gap bounds what is
    missing from the lower bound *on the model's own data*; on real data, which the model may find harder, it is a
    judgement of the settings and no bound.

    Args:
        model, guide: as for :func:`~pyro_vae.evaluation.ais`; the model must be able to run without data. What the
            guide does not sample when it is given the data is data as well; what both programs sample where it is not
            given (``y=None``) is a latent, and log p(x) is bounded.
        num_data: how many are drawn.
        batch: context that the model is given, ``(num_data, ...)`` each.
        num_chains, num_temperatures, num_leapfrog, schedule, start: as for :func:`~pyro_vae.evaluation.ais`.
        memory_budget, vectorize, seed, device, compile, progress: likewise.

    Returns:
        bounds per datum (nats), the gap with its standard error, warnings.

    Raises:
        InputError: as :func:`~pyro_vae.evaluation.ais`; for a model that cannot be run without data, and for programs
            that do not sample the same sites when they are given the data.

    Source: Grosse et al. 2015, arXiv:1511.02543; Wu et al. 2017, arXiv:1611.04273.

    Example:
        >>> import torch, pyro_vae
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> bounds = pyro_vae.bidirectional(model, guide, 2, num_chains=4, num_temperatures=20, progress=False)
        >>> bounds.lower.shape, bounds.upper.shape
        (torch.Size([2]), torch.Size([2]))
    """
    options = Annealing(num_chains, num_temperatures, num_leapfrog, schedule, start)
    positive("num_data", num_data)
    positive("memory_budget", memory_budget)
    check_seed(seed)
    programs = as_programs(model, guide)
    if device is not None:
        device = as_device(device)
        for program in programs:
            program.to(device)
    data, latents = _drawn(*programs, num_data, batch, seed)
    how = {"vectorize": vectorize, "bounds": start == "guide"}
    with evaluating(*programs, data, (seed + 1) % SEEDS, device, **how) as (pair, split):
        pair.refuse_point_masses()
        with private_seed(0, split.device):  # to look is not to change the chains' draws
            traces = pair.traces(split.batch(slice(0, 1)))
        for name in shared_latents(traces):
            check_per_datum(traces, name)
        path = AnnealedPath(pair, start, num_chains)
        lower, upper = [], []
        with options.chunks(path, split, memory_budget, compile, progress, directions=2) as chunks:
            for rows, densities, sizes, step in chunks:
                exact = {name: value[rows].to(split.device) for name, value in latents.items()}
                lower.append(forwards(densities, options.beta, sizes, num_leapfrog, step))
                upper.append(backwards(densities, densities.at_values(exact), options.beta, sizes, num_leapfrog, step))
        below, above = Weights.joined(lower), Weights.joined(upper)
        return BidirectionalBounds(
            below.log_w, above.log_w, torch.stack([below.acceptance, above.acceptance]), options.settings
        )


def _drawn(
    model: Program, guide: Program, num_data: int, batch: Mapping[str, Tensor] | None, seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Data, with their context, and the latents that they were made of.

    Latents are the sites that the guide samples when it is given the data; the others are data. What a model could be
    given, but both programs sample where it is not, is a latent.
    """
    context = {name: value for name, value in as_batch(model, batch or {}).items() if name != X}
    values, site = draw(model, num_data, seed=seed, batch=batch)
    values = {name: value for name, value in values.items() if name != f"{site}.mean"}
    if site not in values:
        raise InputError(
            f"the model draws features of its data and no data that have them ('{site}' is what is shown in their "
            "stead): there is nothing to bound from both sides; ais bounds the density of given data's features"
        )
    data = {name: values[name] for name in required_arguments(guide, context) if name in values}
    data = {**context, **data, X: values[site]}
    if missing := [name for name in required_arguments(guide, data) if name not in data]:
        raise InputError(
            f"the guide needs {', '.join(missing)} of simulated data, which the model does not draw: give it in batch; "
            "or where it follows from x, let the guide find it there"
        )
    latents = _sampled(guide, data, seed)
    summed = _summed(model, guide, data, seed)
    others = [name for name in values if name not in (*latents, *data, site, *summed)]
    known = accepted_arguments(model)
    for name in others:
        if known is not None and name not in known:
            raise InputError(
                f"site '{name}' is drawn by the model, but neither sampled by the guide nor an argument of the model, "
                "by which it could be given as data: the guide lacks it"
            )
    data |= {name: values[name] for name in others}
    drawn = {name: values[name] for name in values if name in latents and name not in data}
    left = _sampled(model, data, seed) - summed
    for name in sorted((left & latents) - set(values)):  # a model's draws are of its data plate
        raise InputError(
            f"site '{name}' is outside the data plate: all data share it, so that simulated data are not independent "
            "and a bound per datum is not defined; put it into the data plate, or hold it (evaluation.given_shared)"
        )
    if left != set(drawn):
        which = sorted(left ^ set(drawn))
        raise InputError(
            f"site '{which[0]}': given {', '.join(data)}, the model and the guide do not sample the same sites "
            f"(the model: {', '.join(sorted(left)) or 'none'}; the guide: {', '.join(drawn) or 'none'})"
        )
    return data, drawn


def _sampled(program: Program, batch: Mapping[str, Tensor], seed: int) -> set[str]:
    """The sites that a program samples when it is given a batch, of which two rows are tried."""
    with in_evaluation([program], {name: value[:2] for name, value in batch.items()}, seed) as rows:
        trace = traced(program, **rows)
    return {name for name, node in trace.nodes.items() if is_latent(node) and not node["infer"].get("is_auxiliary")}


def _summed(model: Program, guide: Program, batch: Mapping[str, Tensor], seed: int) -> frozenset[str]:
    """The latent sites of the model that the guide does not have, and that are summed over."""
    with in_evaluation([model, guide], {name: value[:2] for name, value in batch.items()}, seed) as rows:
        drawn = traced(guide, **rows)
        return summed_sites(traced(poutine.replay(model, trace=drawn), **rows), drawn).model
