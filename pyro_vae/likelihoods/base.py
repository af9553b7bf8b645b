"""The base class of likelihoods: modules from decoder features to a distribution over the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_vae.errors import InputError

EDGE = 1e-3  # means are kept this far, as a part of the range, from the least and the greatest value


def invert_monotone(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The x at which an increasing function, given by points on it, takes the target values.

    Args:
        x: places, ``(n,)``.
        y: values there, increasing, ``(n,)``.
        target: values wanted, any shape, within the range of y.

    Returns:
        places of the target's shape, by linear interpolation.
    """
    right = torch.searchsorted(y, target).clamp(1, len(y) - 1)
    left = right - 1
    return x[left] + (x[right] - x[left]) * (target - y[left]) / (y[right] - y[left])


def tilted_logits(values: Tensor, mean: Tensor) -> Tensor:
    """The distribution of greatest entropy on the values with the given mean: logits_k = lambda * values_k.

    Args:
        values: at least two, increasing, ``(K,)``.
        mean: the mean wanted, any shape; clipped to stay 0.1 % of the range away from the extreme values.

    Returns:
        logits of mean zero over the values, ``(K, *mean.shape)``, of the mean's type and device.
    """
    values = values.to("cpu", torch.float64)
    wanted = mean.detach().to("cpu", torch.float64)
    span = values[-1] - values[0]
    position = (values - values[0]) / span  # (K,) in [0, 1]
    half = torch.linspace(0, 10, 2001, dtype=torch.float64).expm1()  # 0 ... 22025, relative steps of 0.5 %
    strength = torch.cat([-half.flip(0)[:-1], half])
    reached = torch.softmax(strength[:, None] * position, -1) @ position
    reached, first = torch.unique(reached, return_inverse=True)  # it is flat, in floating point, at the ends
    strength = torch.zeros_like(reached).scatter(0, first, strength)
    tilt = invert_monotone(strength, reached, ((wanted - values[0]) / span).clamp(EDGE, 1 - EDGE))
    centred = (position - position.mean()).reshape(-1, *[1] * wanted.ndim)
    return (centred * tilt).to(mean)


class Likelihood(nn.Module):
    """p(x | features), independent over the elements of x; ``log_prob`` in nats, summed over the datum.

    Image data are floats in [0, 1]: grey level k of 256 is k/255. For data ``(C, *rest)`` a decoder yields
    features ``(..., P * C, *rest)`` with P = ``num_parameters``, the parameter outermost: they are read as
    ``(..., P, C, *rest)``.

    Attributes:
        num_parameters: how many numbers the decoder must give per element of the data.
        support: the constraint, elementwise, on the data that the likelihood is defined for.

    Example:
        >>> import torch
        >>> import pyro.distributions as dist
        >>> from pyro_vae.likelihoods import Likelihood
        >>> class Poisson(Likelihood):
        ...     num_parameters, support = 1, dist.constraints.nonnegative_integer
        ...     def forward(self, features, event_dim=3):
        ...         (log_rate,) = self.split(features, event_dim)
        ...         return dist.Poisson(log_rate.exp()).to_event(event_dim)
        >>> Poisson()(torch.zeros(5, 1, 8, 8)).event_shape
        torch.Size([1, 8, 8])
    """

    num_parameters: int = 1
    support: Constraint

    def forward(self, features: Tensor, event_dim: int = 3) -> TorchDistribution:
        """The distribution of one datum for each leading index.

        Args:
            features: ``(..., P * C, *rest)``.
            event_dim: number of dimensions of a datum: 3 for images, 1 for vectors.

        Returns:
            a distribution with event shape ``(C, *rest)``; its log-probabilities are in nats.

        Raises:
            InputError: if the features' channels are no multiple of P.
        """
        raise NotImplementedError

    def feature_shape(self, data_shape: Sequence[int]) -> tuple[int, ...]:
        """The features that a decoder must give for data ``(C, *rest)``: ``(P * C, *rest)``."""
        channels, *rest = data_shape
        return (self.num_parameters * channels, *rest)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """Features whose distribution has about the given mean, for the bias of a decoder's output.

        Args:
            mean: mean of the data, ``(C, *rest)``.

        Returns:
            ``(P * C, *rest)``.
        """
        raise NotImplementedError

    def set_output_bias(self, mean: Tensor) -> None:
        """Let outputs of the likelihood's own start at the data's mean, ``(C, *rest)``; most have none."""

    def split(self, features: Tensor, event_dim: int) -> Tensor:
        """Part the features into parameters, in float32 at least (also under mixed precision).

        Args:
            features: ``(..., P * C, *rest)``.
            event_dim: number of dimensions of a datum.

        Returns:
            ``(P, ..., C, *rest)``, a view, ready to be unpacked.

        Raises:
            InputError: if the features' channels are no multiple of P.
        """
        count = self.num_parameters
        if not 1 <= event_dim <= features.ndim:
            raise InputError(f"event_dim: data of {event_dim} dimensions do not fit features {tuple(features.shape)}")
        channels = features.shape[-event_dim]
        if channels % count:
            raise InputError(
                f"{type(self).__name__} needs {count} features per channel of the data; the decoder gave "
                f"{channels}, no multiple of {count} (features of shape {tuple(features.shape)})"
            )
        if features.dtype in (torch.float16, torch.bfloat16):
            features = features.float()
        parts = features.unflatten(-event_dim, (count, channels // count))  # (..., P, C, *rest)
        return parts.movedim(-event_dim - 1, 0)  # (P, ..., C, *rest)
