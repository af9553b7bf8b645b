"""The likelihood of class labels: integers that are names."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.errors import InputError
from pyro_vae.likelihoods.base import Likelihood


class ClassLabels(Likelihood):
    """p(x = k) = softmax(features)_k for labels k = 0 ... K-1, which have no order; nats, a probability.

    The decoder gives K logits per element. (Grey levels, k/(K-1) of [0, 1], are
    :class:`~pyro_vae.likelihoods.Categorical`'s.)

    Args:
        num_classes: K.

    Raises:
        InputError: if there are fewer than 2.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import ClassLabels
        >>> ClassLabels(3)(torch.zeros(5, 3 * 2), event_dim=1).event_shape  # two columns of three classes
        torch.Size([2])
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise InputError(f"num_classes: labels need at least 2 classes, got {num_classes}")
        self.num_classes = self.num_parameters = num_classes
        self.support = constraints.integer_interval(0, num_classes - 1)

    def forward(self, features: Tensor, event_dim: int = 1) -> dist.TorchDistribution:
        """The distribution of the logits ``(..., K * C, *rest)``."""
        return dist.Categorical(logits=self.split(features, event_dim).movedim(0, -1)).to_event(event_dim)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """Zeros, ``(K * C, *rest)``: a mean of names says nothing."""
        return mean.new_zeros(self.feature_shape(mean.shape))
