"""Data of which a part is given, and what masks leave out of a distribution."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import MaskedDistribution, TorchDistribution
from torch import Tensor

from pyro_vae.errors import InputError


class Completed(MaskedDistribution):
    """The given elements are what they are, the others follow a distribution; log_prob counts the others only.

    log p(x) = sum over missing i of log p_i(x_i) nats;  samples, mean and mode have the given values in their places.

    Args:
        base: elementwise distribution, batch shape ``(..., *shape)``.
        given: the values, ``(..., *shape)``; what it holds in the places of missing elements does not matter.
        mask: bool, True where an element is given, ``(..., *shape)``.

    Example:
        >>> import torch
        >>> import pyro.distributions as dist
        >>> from pyro_vae.distributions import Completed
        >>> fn = Completed(dist.Normal(torch.zeros(3), 1.0), torch.ones(3), torch.tensor([True, True, False]))
        >>> fn.mean, fn.log_prob(torch.zeros(3))
        (tensor([1., 1., 0.]), tensor([ 0.0000,  0.0000, -0.9189]))
    """

    def __init__(self, base: TorchDistribution, given: Tensor, mask: Tensor) -> None:
        super().__init__(base, ~mask)
        self.given = given.expand(self.batch_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Completed:
        """The same distribution for a larger batch."""
        new = super().expand(batch_shape, self._get_checked_instance(Completed, _instance))
        new.given = self.given.expand(batch_shape)
        return new

    def _completed(self, value: Tensor) -> Tensor:
        return torch.where(self._mask, value, self.given.to(value.dtype))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw the missing elements."""
        return self._completed(super().sample(sample_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw the missing elements, with a gradient."""
        return self._completed(super().rsample(sample_shape))

    @property
    def mean(self) -> Tensor:
        """The mean of the missing elements beside the given ones."""
        return self._completed(self.base_dist.mean)

    @property
    def mode(self) -> Tensor:
        """The mode of the missing elements beside the given ones."""
        return self._completed(self.base_dist.mode)


def completed(fn: TorchDistribution, given: Tensor, mask: Tensor) -> TorchDistribution:
    """A distribution of data with independent elements, as the one of data of which a part is given.

    Args:
        fn: event shape ``shape``, all of whose dimensions were declared with ``to_event`` (as likelihoods do).
        given, mask: ``(..., *shape)``, see :class:`Completed`.

    Returns:
        a distribution with the event shape of ``fn``.

    Raises:
        InputError: if the elements are not independent.

    Example:
        >>> import torch
        >>> import pyro.distributions as dist
        >>> from pyro_vae.distributions import completed
        >>> normal = dist.Normal(torch.zeros(5, 3), 1.0).to_event(1)
        >>> completed(normal, torch.ones(5, 3), torch.tensor([True, True, False])).mean[0]
        tensor([1., 1., 0.])
    """
    rank = len(fn.event_shape)
    if not isinstance(fn, torch.distributions.Independent):
        raise InputError(
            f"data of which a part is given need a likelihood of independent elements; {type(fn).__name__} draws one "
            "after another, and what is missing would depend on what is drawn before it alone"
        )
    return Completed(fn.base_dist, given, mask).to_event(rank)


def has_mask(fn: Any) -> bool:
    """Whether a distribution, or one that it wraps, leaves elements out by a mask.

    Example:
        >>> import torch
        >>> import pyro.distributions as dist
        >>> from pyro_vae.distributions import has_mask
        >>> has_mask(dist.Normal(0.0, 1.0).expand([2]).mask(torch.tensor([True, False])))
        True
    """
    return bool(_masks(fn))


def counted_fraction(fn: Any) -> float:
    """The part of a distribution's elements that no mask leaves out, over its whole batch.

    Example:
        >>> import torch
        >>> import pyro.distributions as dist
        >>> from pyro_vae.distributions import counted_fraction
        >>> counted_fraction(dist.Normal(0.0, 1.0).expand([2]).mask(torch.tensor([True, False])))
        0.5
    """
    return math.prod(float(mask.double().mean()) for mask in _masks(fn))


def _masks(fn: Any) -> list[Tensor]:
    masks = []
    while hasattr(fn, "base_dist"):
        mask = getattr(fn, "_mask", None)
        masks += [mask] if isinstance(mask, Tensor) else []
        fn = fn.base_dist
    return masks
