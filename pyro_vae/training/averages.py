"""Averages over training: of weights, and of batch normalization's statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pyro_vae.errors import InputError
from pyro_vae.programs.program import Batch, Program, evaluation_mode
from pyro_vae.training.batches import EpochBatches


class WeightEMA:
    r"""Moving average of a module's parameters.

    .. math:: \bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta

    The average starts at the first weights and is not bias-corrected. Buffers are not averaged.

    Args:
        module: whose parameters are followed.
        decay: d, in (0, 1).

    Raises:
        InputError: if decay is not in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise InputError(f"ema_decay must lie between 0 and 1, got {decay}")
        self.decay = decay
        self.source = list(module.parameters())
        self.average = [p.detach().clone() for p in self.source]

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the current weights."""
        torch._foreach_lerp_(self.average, self.source, 1.0 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the module for the length of a block."""
        with torch.no_grad():
            kept = [p.detach().clone() for p in self.source]
            torch._foreach_copy_(self.source, self.average)
            try:
                yield
            finally:
                torch._foreach_copy_(self.source, kept)

    def state(self) -> list[Tensor]:
        """The averages, to be saved."""
        return self.average

    def restore(self, state: list[Tensor]) -> None:
        """Take over saved averages."""
        for ours, theirs in zip(self.average, state, strict=True):
            ours.copy_(theirs)


SOME = 5000  # training data for the statistics of a validation


def norm_layers(module: nn.Module) -> list[_BatchNorm]:
    """The batch normalization layers of a module that keep running statistics."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def check_batches(step: nn.Module, batches: EpochBatches, fewest: int = 1, held_out: int = 0) -> None:
    """Check that batch norm has more than one datum in every training batch, and an objective as many as it needs.

    Args:
        step: of training.
        batches: of training.
        fewest: data that the objective needs in a batch.
        held_out: how many validation data there are.

    Raises:
        InputError: if a batch has too few; says which sizes would do.
    """
    size, rest = batches.batch_size // batches.world, len(batches.split) % batches.batch_size // batches.world
    for what, last in (("training", rest), ("validation", held_out % batches.batch_size)):
        if min(last or size, size) < fewest:
            raise InputError(
                f"the objective needs at least {fewest} data in every batch; of the {what} data in batches of "
                f"{batches.batch_size} the last has {last or size}: choose another batch_size"
            )
    if any(layer.training for layer in norm_layers(step)) and (size == 1 or rest == 1):
        raise InputError(
            f"batch norm needs at least 2 data in every batch; of {len(batches.split)} data in batches of "
            f"{batches.batch_size}"
            + (f" on {batches.world} devices" if batches.world > 1 else "")
            + f" the {'last has' if size > 1 else 'batches have'} 1: choose another batch_size"
        )


@contextmanager
def averaging(layers: list[_BatchNorm]) -> Iterator[None]:
    """Within the block the layers' statistics are the plain averages over the batches they see there.

    Outside they are moving averages over the last few training steps: of weights that have moved meanwhile, and
    of other weights than a moving average of the weights.

    Source: Sønderby et al. 2016, arXiv:1602.02282 (statistics over the training data before evaluation).
    """
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's name for a plain average
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@torch.no_grad()
def recompute_statistics(model: Program, guide: Program, batches: Iterable[Batch]) -> None:
    """Set the statistics of a pair's norm layers to averages over batches; nothing else moves.

    The layers alone are in training mode, all else in evaluation mode, as it will be measured: codebooks, moving
    averages and whatever else learns in training mode stay, and dropout is off. A layer that stays in evaluation mode
    when its program is put into training mode (frozen) is left as it is. All modes are put back.

    Args:
        model, guide: own the layers.
        batches: of training data.
    """
    with evaluation_mode(model, guide):
        model.train(), guide.train()
        layers = [layer for layer in norm_layers(nn.ModuleList([model, guide])) if layer.training]
        model.eval(), guide.eval()
        for layer in layers:
            layer.training = True
        with averaging(layers):
            for batch in batches:
                guide_trace = poutine.trace(guide).get_trace(**batch)
                poutine.replay(model, trace=guide_trace)(**batch)
