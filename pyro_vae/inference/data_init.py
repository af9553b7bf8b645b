"""Data-dependent initialization of layers with weight normalization."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm

from pyro_vae.program import Batch, Program, prime

INITIALIZE_ON = 500  # training data: means over a small batch are wild, and what is built on them wilder
MIN_SCALE = 0.1  # a unit that hardly varies over the batch is blown up by no more than 1 / this


def initialize_from_data(model: Program, guide: Program, batch: Batch) -> int:
    r"""Set gains and biases of weight-normalized layers so that, on a batch, each unit has mean 0 and variance 1.

    .. math:: g \leftarrow g / \sigma[t], \quad b \leftarrow (b - \mu[t]) / \sigma[t]

    with t a layer's output at its first call, its inputs being those of layers that are initialized already. It is
    done once in a layer's life: layers are those with ``torch.nn.utils.parametrizations.weight_norm`` and a buffer
    ``initialized`` that is False. Of convolutions mean and variance go over pixels too. The random state is left as
    it was.

    Args:
        model, guide: programs, run once, the guide first.
        batch: what they are run on.

    Returns:
        how many layers were initialized.

    Source: Salimans & Kingma 2016, arXiv:1602.07868, section 3.
    """
    layers = {m for program in (model, guide) for m in program.modules() if _awaits_data(m)}
    if not layers:
        return 0
    done: set[nn.Module] = set()

    def initialize(layer: Any, _: Any, output: Tensor) -> Tensor:
        if layer in done:
            return output
        done.add(layer)
        layer.initialized.fill_(True)
        channel = -1 if isinstance(layer, nn.Linear) else -3
        others = [i for i in range(output.dim()) if i != output.dim() + channel]
        mean, scale = output.mean(others), output.std(others, correction=0).clamp(min=MIN_SCALE)  # (units,)
        gain = layer.parametrizations.weight.original0  # (units, 1, …)
        gain.div_(scale.reshape(gain.shape))
        if layer.bias is not None:
            layer.bias.sub_(mean).div_(scale)
        tail = (1,) * (-channel - 1)
        shift = mean if layer.bias is not None else torch.zeros_like(mean)
        return (output - shift.reshape(-1, *tail)) / scale.reshape(-1, *tail)

    hooks = [layer.register_forward_hook(initialize) for layer in layers]
    try:
        prime(model, guide, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return len(done)


def _awaits_data(module: nn.Module) -> bool:
    if not isinstance(module, nn.Linear | nn.Conv2d) or not parametrize.is_parametrized(module, "weight"):
        return False
    if bool(getattr(module, "initialized", True)):
        return False
    return any(isinstance(p, _WeightNorm) for p in module.parametrizations.weight)  # type: ignore[union-attr]
