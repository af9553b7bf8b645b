"""Counts of words, given how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.errors import positive


class BagOfWords(TorchDistribution):
    r"""The multinomial distribution of word counts x given their sum n, which each datum has of its own.

    .. math:: \log p(x \mid n) = \log n! - \sum_v \log x_v! + \sum_v x_v \log \pi_v \quad \text{nats}

    torch's own has one n for all data. Over all x of one n the probabilities add up to one.

    Args:
        logits: of pi, ``(*batch_shape, vocabulary)``.
        total_count: n of what is drawn, and of the mean.
        validate_args: check arguments and data; by default torch's global setting.

    Raises:
        InputError: if total_count is no positive integer.

    Example:
        >>> import torch
        >>> from pyro_vae.distributions import BagOfWords
        >>> fn = BagOfWords(torch.zeros(5, 3), total_count=6)
        >>> fn.sample().sum(-1), fn.mean[0]
        (tensor([6., 6., 6., 6., 6.]), tensor([2., 2., 2.]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}
    support = constraints.independent(constraints.nonnegative_integer, 1)  # pyright: ignore[reportAssignmentType]
    has_rsample = False

    def __init__(self, logits: Tensor, total_count: int = 100, validate_args: bool | None = None) -> None:
        self.logits = logits
        self.total_count = positive("total_count", total_count)
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> BagOfWords:
        """The same distribution with a larger batch shape, without copying."""
        logits = self.logits.expand((*batch_shape, *self.event_shape))
        new = BagOfWords(logits, self.total_count, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x | n) in nats with n the sum of x, shape ``broadcast(value's batch, batch_shape)``.

        Raises:
            ValueError: if validation is on and a value is no count.
        """
        if self._validate_args:
            self._validate_sample(value)
        value = value.to(self.logits.dtype)
        ways = torch.lgamma(value.sum(-1) + 1) - torch.lgamma(value + 1).sum(-1)
        return ways + (value * self.logits.log_softmax(-1)).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw counts of ``total_count`` words, ``(*sample_shape, *batch_shape, vocabulary)``."""
        drawn = torch.distributions.Multinomial(self.total_count, logits=self.logits, validate_args=False)
        return drawn.sample(torch.Size(sample_shape))

    @property
    def mean(self) -> Tensor:
        """Expected counts of ``total_count`` words."""
        return self.total_count * self.logits.softmax(-1)

    @property
    def variance(self) -> Tensor:
        """Of each count."""
        p = self.logits.softmax(-1)
        return self.total_count * p * (1 - p)
