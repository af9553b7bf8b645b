"""The categorical likelihood, for grey levels."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.distributions import DiscretizedCategorical, GreyLevels
from pyro_vae.errors import InputError
from pyro_vae.likelihoods.base import Likelihood, tilted_logits


class Categorical(Likelihood):
    """p(x = k/(K-1)) = softmax(features)_k: a free distribution over K grey levels; nats, a probability.

    The decoder gives K logits per element. Source: van den Oord et al. 2016 (PixelRNN, arXiv:1601.06759).

    Args:
        num_levels: K; 256 for bytes.

    Raises:
        InputError: if there are fewer than 2 levels.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import Categorical
        >>> p = Categorical(num_levels=16)(torch.zeros(5, 16 * 3, 8, 8))  # 16 logits for each of 3 colours
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([3, 8, 8]))
    """

    def __init__(self, num_levels: int = 256) -> None:
        super().__init__()
        if num_levels < 2:
            raise InputError(f"num_levels: a grey scale needs at least 2 levels, got {num_levels}")
        self.num_levels = num_levels
        self.num_parameters = num_levels
        self.support = GreyLevels(num_levels)

    def forward(self, features: Tensor, event_dim: int = 3) -> dist.TorchDistribution:
        """The distribution over levels of the logits ``(..., K * C, *rest)``."""
        logits = self.split(features, event_dim).movedim(0, -1)  # (..., C, *rest, K)
        return DiscretizedCategorical(logits).to_event(event_dim)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """Logits of the distribution of greatest entropy with that mean, ``(K * C, *rest)``."""
        logits = tilted_logits(torch.linspace(0, 1, self.num_levels), mean)  # (K, C, *rest)
        return logits.flatten(0, 1)
