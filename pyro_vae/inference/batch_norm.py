"""Batch normalization's statistics, recomputed for weights that are to be measured or kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

SOME = 5000  # training data for the statistics of a validation


def norm_layers(module: nn.Module) -> list[_BatchNorm]:
    """The batch normalization layers of a module that keep running statistics."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


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
def recompute_statistics(step: nn.Module, batches: Iterator[dict[str, Any]], context: Callable[[], Any]) -> None:
    """Set the statistics of a step's layers to averages over batches, run in training mode; its mode is put back.

    Args:
        step: called with each batch.
        batches: of training data.
        context: made around each call (precision).
    """
    training = step.training
    step.train()
    with averaging(norm_layers(step)):
        for batch in batches:
            with context():
                step(**batch)
    step.train(training)
