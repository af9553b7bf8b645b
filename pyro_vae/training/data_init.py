"""Initialization from the first data: weight-normalized layers, and modules with a method of their own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm

from pyro_vae.data import Split
from pyro_vae.programs.context import X
from pyro_vae.programs.held import is_held
from pyro_vae.programs.program import Batch, Program, prime
from pyro_vae.programs.site_priors import GuideOfSite
from pyro_vae.training.batches import EpochBatches

INITIALIZE_ON = 500  # training data: means over a small batch are wild, and what is built on them wilder
MOST_NUMBERS = 2**22  # in these data: of large images fewer are taken
MIN_SCALE = 0.1  # a unit that hardly varies over the batch is blown up by no more than 1 / this


def initialize_from_data(model: Program, guide: Program, batch: Batch) -> int:
    r"""Initialize what awaits data, each module once in its life, from its inputs at its first call.

    A module awaits data if it has a buffer (or an attribute) ``initialized`` that is False, and either

    - a method ``initialize``: it is called with the inputs of the module's first call, before that call (k-means of
      a codebook); or
    - ``torch.nn.utils.parametrizations.weight_norm``: gain g and bias b are set so that each unit's output t has mean 0
      and variance 1 on the batch (over pixels too, for convolutions),

    .. math:: g \leftarrow g / \sigma[t], \quad b \leftarrow (b - \mu[t]) / \sigma[t].

    Then ``initialized`` is True. Modules are taken in the order in which the programs call them, so that the inputs of
    each are those that initialized ones give. The random state is left as it was.

    Args:
        model, guide: programs, run once, the guide first.
        batch: what they are run on.

    Returns:
        how many modules were initialized; those that were not called still await data.

    Source: Salimans & Kingma 2016, arXiv:1602.07868, section 3 (weight normalization).
    """
    waiting = _waiting(model, guide)
    if not waiting:
        return 0
    if not (model.explored and guide.explored):
        prime(model, guide, batch)  # looks for what they use, with gradients: hooks that set weights do not bear them
    done: set[nn.Module] = set()

    def by_itself(module: Any, inputs: tuple[Any, ...]) -> None:
        if module not in done:
            done.add(module)
            module.initialize(*inputs)
            _mark(module)

    def by_scaling(layer: Any, _: Any, output: Tensor) -> Tensor:
        if layer in done:
            return output
        done.add(layer)
        _mark(layer)
        return _normalize(layer, output)

    hooks = [
        module.register_forward_pre_hook(by_itself) if _has_method(module) else module.register_forward_hook(by_scaling)
        for module in waiting
    ]
    try:
        prime(model, guide, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return len(done)


def give_data(model: Program, guide: Program, split: Split, batch_size: int, seed: int) -> None:
    """Give training data to modules that start at some, each once in its life, such as pseudo-inputs of a prior.

    Such a module has an attribute ``data_wanted``, how many data it is to be given (0: none any more), and a method
    ``take_data``, which is called with them, ``(data_wanted or fewer, *data)``.

    Args:
        model, guide: the programs.
        split: training data, of which batches are gathered until there are enough.
        batch_size, seed: of the batches.
    """
    every = [module for program in (model, guide) for module in program.modules()]
    wanting = [module for module in every if getattr(module, "data_wanted", 0) and not is_held(module)]
    if not wanting:
        return
    batches = EpochBatches(split, batch_size, seed)
    most, found, index = max(int(module.data_wanted) for module in wanting), list[Tensor](), 0
    while sum(map(len, found)) < most and index < len(batches):
        found.append(batches.batch(0, index)[X])
        index += 1
    for module in dict.fromkeys(wanting):
        module.take_data(torch.cat(found)[: int(module.data_wanted)])


def awaits_data(model: Program, guide: Program) -> bool:
    """Whether there is anything to initialize."""
    return bool(_waiting(model, guide))


def number_of_data(split: Split) -> int:
    """How many training data to initialize from: 500, or fewer if they are large."""
    return max(1, min(INITIALIZE_ON, MOST_NUMBERS // math.prod(split.shape)))


def _normalize(layer: Any, output: Tensor) -> Tensor:
    """Rescale a weight-normalized layer; returns what its output then is."""
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


def _mark(module: Any) -> None:
    if isinstance(module.initialized, Tensor):
        module.initialized.fill_(True)
    else:
        module.initialized = True


def _waiting(model: Program, guide: Program) -> set[nn.Module]:
    every = [module for program in (model, guide) for module in program.modules()]
    frozen = {inner for module in every if isinstance(module, GuideOfSite) for inner in module.modules()}
    return {module for module in every if _awaits_data(module) and not is_held(module)} - frozen


def _awaits_data(module: nn.Module) -> bool:
    if bool(getattr(module, "initialized", True)):
        return False
    return _has_method(module) or _is_weight_normalized(module)


def _has_method(module: nn.Module) -> bool:
    return callable(getattr(module, "initialize", None))


def _is_weight_normalized(module: nn.Module) -> bool:
    if not isinstance(module, nn.Linear | nn.Conv2d) or not parametrize.is_parametrized(module, "weight"):
        return False
    return any(isinstance(p, _WeightNorm) for p in module.parametrizations.weight)  # type: ignore[union-attr]
