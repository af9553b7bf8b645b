"""What every likelihood is: a module from decoder features to a distribution over the data."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_vae.errors import InputError


class Likelihood(nn.Module):
    """p(x | features), independent over the elements of x; ``log_prob`` in nats, summed over the datum.

    Image data are floats in [0, 1]: grey level k of 256 is k/255. For data ``(C, *rest)`` a decoder yields
    features ``(..., P * C, *rest)`` with P = ``num_parameters``, the parameter outermost: they are read as
    ``(..., P, C, *rest)``.

    Attributes:
        num_parameters: how many numbers the decoder must give per element of the data.
        support: the constraint, elementwise, on the data that the likelihood is defined for.
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

    def initial_bias(self, mean: Tensor) -> Tensor:
        """Features whose distribution has about the given mean, for the bias of a decoder's output.

        Args:
            mean: mean of the data, ``(C, *rest)``.

        Returns:
            ``(P * C, *rest)``.
        """
        raise NotImplementedError

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
