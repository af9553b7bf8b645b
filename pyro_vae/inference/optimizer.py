"""Optimizers by name."""

from __future__ import annotations

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
    extra: dict[str, Any] = {"fused": True} if name != "adamax" and "fused" not in options else {}
    lr: float | torch.Tensor = rate
    if mode != "off" and device.type == "cuda":
        lr = torch.tensor(rate, device=device)  # a captured step reads it from its place
        extra |= {"capturable": True} if name != "sgd" else {}
    try:
        betas = {"betas": tuple(options["betas"])} if "betas" in options else {}
        return _OPTIMIZERS[name](parameters, lr=lr, **extra, **{**options, **betas})
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"optimizer '{name}' refuses its options {options} at rate {rate}: {error}") from error
