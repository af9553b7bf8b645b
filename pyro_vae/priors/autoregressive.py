"""What autoregressive priors share: context to condition, condition to distribution."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from pyro_vae.distributions import Autoregressive
from pyro_vae.distributions.autoregressive import Condition, Steps
from pyro_vae.errors import InputError
from pyro_vae.priors.base import Prior


class AutoregressivePrior(Prior):
    """p(codes | context) = prod_i p(code_i | the codes before it, context), in the order of rows.

    A prior of one's own has three methods, all of which know one batch dimension only: ``condition`` (once a
    distribution), ``logits`` (all positions in one pass) and ``steps`` (a memory that gives the same logits position by
    position).

    Args: see :class:`~pyro_vae.priors.base.Prior`.
    """

    def forward(self, **context: Tensor | None) -> Autoregressive:
        """p(codes | context), with the batch shape to which the leading dimensions of the context broadcast.

        Raises:
            InputError: if the label, the text or a coarser grid is missing, or has another shape.
        """
        given = self.given(context)
        events = {name: value.dim() - self.context_dim(name) for name, value in given.items()}
        leading = torch.broadcast_shapes(*(value.shape[: events[name]] for name, value in given.items()))
        batch = math.prod(leading)
        flat = {name: value.expand((*leading, *value.shape[events[name] :])) for name, value in given.items()}
        flat = {name: value.reshape(batch, *value.shape[len(leading) :]) for name, value in flat.items()}
        condition = {name: value.reshape((*leading, *value.shape[1:])) for name, value in self.condition(flat).items()}
        return Autoregressive(self, self.num_codes, self.shape, condition, leading, self.device)

    @abstractmethod
    def condition(self, context: Condition) -> Condition:
        """What ``logits`` and ``steps`` are given, each ``(batch, ...)``, of the context, each ``(batch, ...)``."""

    @abstractmethod
    def logits(self, codes: Tensor, condition: Condition) -> Tensor:
        """Logits ``(batch, K, *shape)`` at all positions; those at i depend on the codes before i only.

        Args:
            codes: int64 ``(batch, *shape)``.
            condition: what ``condition`` gave.
        """

    @abstractmethod
    def steps(self, batch: int, condition: Condition) -> Steps:
        """A memory for a batch of samples: ``steps(i, codes)`` gives the logits ``(batch, K)`` of position i.

        It is made and called where gradients are off.
        """

    def without(self, condition: Condition) -> Condition:
        """The condition without what samples can be guided by; for priors that have been trained without it at times.

        Raises:
            InputError: if the prior has not, as most.
        """
        raise InputError(
            f"samples of this {type(self).__name__} cannot be guided: it never was without its condition in training "
            "(TransformerPrior with condition_dropout is, at times)"
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are, and samples are made."""
        return self.seen.device
