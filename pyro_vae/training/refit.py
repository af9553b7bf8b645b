"""Train a fresh guide for a model that stays as it is, so that the pair can be measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyro_vae.data import DataLike, as_data
from pyro_vae.errors import InputError
from pyro_vae.objectives.base import Objective
from pyro_vae.programs.held import held
from pyro_vae.programs.inside import OfGuide
from pyro_vae.programs.owners import weights_of_model
from pyro_vae.programs.program import Program, as_programs, real_type
from pyro_vae.programs.session import check_pair, in_evaluation, named
from pyro_vae.programs.site_priors import ROWS
from pyro_vae.training.experiment import state_digest
from pyro_vae.training.fitting import FitResult, fit
from pyro_vae.training.schedules import owner

logger = logging.getLogger(__name__)


def refit_guide(
    model: Callable[..., Any],
    data: DataLike,
    guide: Callable[..., Any],
    *,
    objective: Objective | None = None,
    **options: Any,
) -> FitResult:
    r"""Fit a fresh guide to a model that has been trained, and that stays as it is.

    .. math:: \max_q \; E_{data} E_{q(z | x)} [\log p(x, z) - \log q(z | x)], \quad p \text{ fixed}

    For models whose own guide says nothing of the posterior (of adversarial autoencoders and Wasserstein autoencoders
    it becomes a point mass): log p(x) is the model's alone, and with the new guide it can be measured by importance
    weights. The model is in evaluation mode all the time, as it will be measured: dropout is off, and batch statistics,
    codebooks and averages do not move.

    Args:
        model: the trained program.
        data: as for :func:`~pyro_vae.fit`: those that the guide is to be good at are training data like any other, so
            measure held-out data; with a validation part, ``patience`` stops early.
        guide: a program that has been trained with no model; it is trained in place.
        objective: what is minimized in the guide; :class:`~pyro_vae.objectives.ELBO` with one particle if not given.
        options: of :func:`~pyro_vae.fit`: epochs, learning_rate, patience, seed, out, resume, ….

    Returns:
        the result of training: the model as it was, and the new guide, ready for evaluation.

    Raises:
        InputError: as :func:`~pyro_vae.fit`; for a guide without weights of its own, for a model of which a guide's
            posteriors are a part (a VampPrior), and for one that changes itself when it is run.

    Source: Wu et al. 2017, arXiv:1611.04273 (decoders without a guide must be measured by other means); Cremer et al.
        2018, arXiv:1801.03558 (guides refitted to a fixed model).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> fresh = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> result = pyro_vae.refit_guide(model, x, fresh, epochs=2, device="cpu", progress=False)
        >>> result.model is model, result.guide is fresh
        (True, True)
    """
    data = as_data(named(data, model), options.get("num_workers", 0))
    _check_no_part_of_guide(model)
    programs = as_programs(model, guide)
    _check_options(programs, options)
    ours = owner(programs[0])
    first = {name: value.detach().clone() for name, value in ours.named_buffers() if not is_lazy(value)}
    try:
        check_pair(*programs, data.train)
        with in_evaluation(programs, data.train.batch(slice(0, ROWS)), seed=0) as batch:
            fixed, modules = weights_of_model(*programs, batch)
    finally:
        moved = _put_back({name: value for name, value in ours.named_buffers() if name in first}, first)
    _check_stays([f"buffer '{name}'" for name in moved])
    own = {id(p) for p in fixed}
    if not any(p.requires_grad and id(p) not in own for p in programs[1].parameters()):
        raise InputError(
            "guide: it has no weight of its own to train, all that it uses is the model's or is frozen: give a fresh "
            "guide, built anew for the model"
        )
    tensors = {f"parameter '{name}'": value for name, value in ours.named_parameters() if id(value) in own}
    tensors |= {f"buffer '{name}'": value for name, value in ours.named_buffers()}
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    options["described"] = {"the model, which stays as it is": state_digest(before), **(options.get("described") or {})}
    with held(modules, fixed):
        try:
            result = fit(*programs, data, objective=objective, **options)
        finally:
            moved = _put_back(tensors, before)
    _check_stays(moved)
    ours.eval()
    return result


def _check_stays(moved: list[str]) -> None:
    """Refuse a model of which something has moved."""
    if moved:
        raise InputError(
            f"model: its {moved[0]} changes though nothing of the model is trained: it sets "
            "that itself when it is run, in evaluation mode too, so that there is no fixed model to fit a guide to. It "
            "has been put back"
        )


def _check_no_part_of_guide(model: Callable[..., Any]) -> None:
    """Refuse a model of which some guide's posteriors are a part."""
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, OfGuide):
            raise InputError(
                f"model: its {type(module).__name__} is made of the guide's posteriors, so that with another guide it "
                "would be another model: measure it with its own guide, or by annealing from the prior "
                "(pyro_vae.ais(model, guide, data, start='prior'))"
            )


def _check_options(programs: Iterable[Program], options: Mapping[str, Any]) -> None:
    """Refuse what would change the model."""
    scheduled = next((name for name in options.get("schedules") or {} if name.startswith("model.")), None)
    if scheduled is not None:
        raise InputError(f"schedules: '{scheduled}' is of the model, which stays as it is; name a buffer of the guide")
    if options.get("precision") == "64-true" and real_type(*programs) == torch.float32:
        raise InputError(
            "precision: 64-true would make the model float64, and it is to stay as it is; leave precision out, or "
            "convert the model first (.double())"
        )


@torch.no_grad()
def _put_back(tensors: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> list[str]:
    """Give tensors the values that they had; returns which had others."""
    moved = []
    for name, tensor in tensors.items():
        old = before[name].to(tensor.device)
        if tensor.dtype != old.dtype or not torch.equal(tensor.nan_to_num(), old.nan_to_num()):
            moved.append(name)
            tensor.copy_(old)
    return moved
