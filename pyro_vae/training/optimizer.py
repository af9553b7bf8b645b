"""Optimizers by name."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import nn

from pyro_vae.errors import InputError, unknown
from pyro_vae.recording import Mode

OptimizerName = Literal["adam", "adamw", "adamax", "sgd"]
_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "sgd": torch.optim.SGD,
}


MOMENTS = {torch.optim.Adam: ("exp_avg", "exp_avg_sq"), torch.optim.Adamax: ("exp_avg", "exp_inf")}  # AdamW is an Adam


def checked_moments(
    optimizer: torch.optim.Optimizer, group: dict[str, Any], parameter: torch.Tensor
) -> dict[str, torch.Tensor]:
    """A parameter's state in an optimizer, read from a file, in tensors of the shape and layout that it relies on.

    A fused step writes through bare pointers: a moment of another size would have it write beyond its memory.

    Args:
        optimizer: whose state it is; the tensors are replaced there.
        group: of the parameter.
        parameter: one of the optimizer's.

    Raises:
        KeyError: if a moment is missing.
        TypeError: if there is something else.
        RuntimeError: if one has another shape.
    """
    saved = optimizer.state.get(parameter)
    if not saved:
        return {}
    kind = next((kind for kind in MOMENTS if isinstance(optimizer, kind)), None)
    if kind is not None:
        names = [*MOMENTS[kind], *(["max_exp_avg_sq"] if group.get("amsgrad") else [])]
        made = {"step": saved["step"].reshape(()).to(torch.get_default_dtype(), copy=True)}
    else:  # SGD, which has one only with momentum
        names, made = ["momentum_buffer"] if saved.get("momentum_buffer") is not None else [], {}
    for name in names:
        if saved[name].shape != parameter.shape:
            raise RuntimeError(f"'{name}' has shape {tuple(saved[name].shape)}, its weight {tuple(parameter.shape)}")
        made[name] = torch.empty_like(parameter, requires_grad=False).copy_(saved[name])
    if set(saved) - set(made) - {"momentum_buffer"}:
        raise TypeError(f"the optimizer keeps no {', '.join(map(str, set(saved) - set(made)))}")
    saved.clear()
    saved.update(made)
    return saved


def make_optimizer(
    name: str, step: nn.Module, rate: float, options: dict[str, Any], device: torch.device, mode: Mode = "off"
) -> torch.optim.Optimizer:
    """An optimizer over a step's parameters: fused where it can be, ready for capture on a GPU.

    Raises:
        InputError: for an unknown name, options that it refuses, or nothing to train.
    """
    if name not in _OPTIMIZERS:
        raise unknown("optimizer", name, _OPTIMIZERS)
    parameters = [p for p in step.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(
            "neither the model nor the guide has a parameter to train: plain functions must refer to their "
            "modules by name, or use pyro.param"
        )
    for option, argument in inspect.signature(_OPTIMIZERS[name]).parameters.items():
        value = options.get(option)
        if (isinstance(argument.default, bool) or option in ("foreach", "fused")) and not isinstance(
            value, bool | None
        ):
            raise InputError(f"optimizer '{name}': {option} must be true or false, got {value!r}"[:300])
    extra: dict[str, Any] = {"fused": True} if name != "adamax" and "fused" not in options else {}
    lr: float | torch.Tensor = rate
    if mode != "off" and device.type == "cuda":
        lr = torch.tensor(rate, device=device)  # a captured step reads it from its place
        extra |= {"capturable": True} if name != "sgd" else {}
    try:
        betas = {"betas": tuple(options["betas"])} if "betas" in options else {}
        return _OPTIMIZERS[name](parameters, lr=lr, **extra, **{**options, **betas})
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(f"optimizer '{name}' refuses its options {options} at rate {rate}: {error}") from error
