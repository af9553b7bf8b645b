"""The continuous Bernoulli distribution on [0, 1], for logits of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

SMALL = 0.1  # logits below which series serve


class ContinuousBernoulli(TorchDistribution):
    r"""x in [0, 1] with a density that is exponential in x.

    .. math:: \log p(x) = l x + \log\frac{l}{e^l - 1} \quad \text{nats}

    torch's own normalizes by a probability that it clips, so that beyond logits of 16 (in float32) its density
    integrates to something else than one; and a mean of 0.03 is at a logit of -33. Samples are reparameterized.

    Args:
        logits: l, ``batch_shape``.
        validate_args: check arguments and data; by default torch's global setting.

    Source: Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845.

    Example:
        >>> import torch
        >>> from pyro_vae.distributions import ContinuousBernoulli
        >>> fn = ContinuousBernoulli(torch.tensor([-50.0, 0.0]))
        >>> fn.mean, fn.log_prob(torch.zeros(2)).exp()
        (tensor([0.0200, 0.5000]), tensor([50.0000,  1.0000]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real}
    support = constraints.unit_interval  # pyright: ignore[reportAssignmentType]
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ContinuousBernoulli:
        """The same distribution with a larger batch shape, without copying."""
        new = ContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(x) in nats, shape ``broadcast(value, batch_shape)``.

        Raises:
            ValueError: if validation is on and a value is outside [0, 1].
        """
        if self._validate_args:
            self._validate_sample(value)
        small, size = self._size()
        away = size.log() - torch.log(-torch.expm1(-size)) - self.logits.clamp(min=0)
        near = -self.logits / 2 - self.logits.square() / 24 + self.logits.pow(4) / 2880
        return self.logits * value + torch.where(small, near, away)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw values, ``(*sample_shape, *batch_shape)``, by the inverse of the distribution function."""
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        small, size = self._size()
        low = -torch.log1p(u * torch.expm1(-size)) / size  # of a logit of -size
        near = u + u * (1 - u) * (self.logits / 2 + self.logits.square() * (1 - 2 * u) / 6)
        return torch.where(small, near, torch.where(self.logits > 0, 1 - low, low)).clamp(0, 1)

    @property
    def mean(self) -> Tensor:
        """1 / (1 - e^-l) - 1 / l, 1/2 at l = 0."""
        small, size = self._size()
        low = 1 / size - 1 / torch.expm1(size)  # of a logit of -size
        near = 0.5 + self.logits / 12 - self.logits.pow(3) / 720 + self.logits.pow(5) / 30240
        return torch.where(small, near, torch.where(self.logits > 0, 1 - low, low))

    @property
    def mode(self) -> Tensor:
        """The end to which the density rises."""
        return (self.logits >= 0).to(self.logits.dtype)

    def _size(self) -> tuple[Tensor, Tensor]:
        """Which logits are small; and |l|, 1 where it is small: no gradient of the other branch is to be NaN."""
        small = self.logits.abs() < SMALL
        return small, torch.where(small, torch.ones_like(self.logits), self.logits.abs())
