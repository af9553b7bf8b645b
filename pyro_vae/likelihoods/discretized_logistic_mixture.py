"""The discretized mixture of logistics as a likelihood, for grey levels."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyro_vae import distributions
from pyro_vae.errors import InputError
from pyro_vae.likelihoods.base import Likelihood, invert_monotone, tilted_logits


class DiscretizedLogisticMixture(Likelihood):
    """A mixture of M logistics, discretized to K grey levels, per element; nats, a probability.

    The decoder gives 3M features per element: M mixture logits, M locations, M log-scales, in that order, the
    latter two in units where the data span [-1, 1]. The channels of a pixel are *independent* given the
    features; PixelCNN++ (Salimans et al. 2017, arXiv:1701.05517) lets the red value shift the green and blue
    locations, so its figures and this likelihood's aren't the same model's.
    See :class:`pyro_vae.distributions.DiscretizedLogisticMixture`.

    Args:
        num_components: M.
        num_levels: K; 256 for bytes.

    Raises:
        InputError: if there is no component, or fewer than 2 levels.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import DiscretizedLogisticMixture
        >>> likelihood = DiscretizedLogisticMixture(num_components=5)
        >>> p = likelihood(torch.zeros(2, likelihood.num_parameters * 3, 8, 8))
        >>> p.batch_shape, p.event_shape
        (torch.Size([2]), torch.Size([3, 8, 8]))
    """

    def __init__(self, num_components: int = 10, num_levels: int = 256) -> None:
        super().__init__()
        if num_components < 1:
            raise InputError(f"num_components: a mixture needs at least 1 component, got {num_components}")
        if num_levels < 2:
            raise InputError(f"num_levels: a grey scale needs at least 2 levels, got {num_levels}")
        self.num_components = num_components
        self.num_levels = num_levels
        self.num_parameters = 3 * num_components
        self.support = distributions.GreyLevels(num_levels)

    def forward(self, features: Tensor, event_dim: int = 3) -> dist.TorchDistribution:
        """The mixture of the features ``(..., 3M * C, *rest)``."""
        parts = self.split(features, event_dim).unflatten(0, (3, self.num_components))
        logits, loc, log_scale = parts.movedim(1, -1)  # each (..., C, *rest, M)
        mixture = distributions.DiscretizedLogisticMixture(logits, loc, log_scale, self.num_levels)
        return mixture.to_event(event_dim)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """Components spread over the whole grey scale, weighted so as to have the mean; ``(3M * C, *rest)``.

        So dark and bright pixels alike are somewhere near a component from the first step on. A single
        component is put where its own mean is the one wanted.
        """
        count = self.num_components
        scale = 1 / (count + 1)
        log_scale = torch.full((count, *mean.shape), math.log(scale)).to(mean)
        if count == 1:
            places = torch.linspace(-1 - 8 * scale, 1 + 8 * scale, 4001, dtype=torch.float64)
            wanted = mean.detach().to("cpu", torch.float64).clamp(0.001, 0.999)
            loc = invert_monotone(places, _mean_in_range(places, scale), wanted).to(mean).unsqueeze(0)
            logits = torch.zeros_like(loc)
        else:
            places = torch.linspace(-1 - 2 * scale, 1 + 2 * scale, count, dtype=torch.float64)
            logits = tilted_logits(_mean_in_range(places, scale), mean)
            loc = places.to(mean).reshape(-1, *[1] * mean.ndim).expand_as(logits)
        return torch.cat([logits, loc, log_scale]).flatten(0, 1)


def _mean_in_range(loc: Tensor, scale: float) -> Tensor:
    """The mean in [0, 1] of a logistic on [-1, 1] whose tails are moved to the ends."""
    return scale * (softplus((loc + 1) / scale) - softplus((loc - 1) / scale)) / 2
