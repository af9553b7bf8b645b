"""A distribution of numbers that are independent after a rotation, such as coefficients of a cosine transform."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints


class Rotated(TorchDistribution):
    r"""x = Q^T y, y ~ base: an event's first dimension is rotated.

    .. math:: \log p(x) = \log p_y(Q x), \quad |\det Q| = 1

    Args:
        base: of y, event shape ``(C, *rest)``, any real numbers.
        matrix: Q, orthonormal, ``(C, C)``.
        validate_args: check arguments and data; by default torch's global setting.

    Raises:
        ValueError: for a matrix of another shape.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from pyro_vae.distributions import Rotated
        >>> turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
        >>> p = Rotated(dist.Laplace(torch.tensor([1.0, 0.0]), 1.0).to_event(1), turn)
        >>> p.mean, p.log_prob(p.mean)  # a Laplace's height, 1/2 in both directions
        (tensor([0.6000, 0.8000]), tensor(-1.3863))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: TorchDistribution, matrix: Tensor, validate_args: bool | None = None) -> None:
        size = base.event_shape[0] if base.event_shape else 0
        if tuple(matrix.shape) != (size, size):
            raise ValueError(f"matrix must have shape ({size}, {size}), got {tuple(matrix.shape)}")
        self.base, self.matrix = base, matrix
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """That of the base."""
        return self.base.has_rsample

    @property
    def support(self) -> constraints.Constraint:
        """All real numbers."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Rotated:
        """The same distribution with a larger batch shape."""
        return Rotated(self.base.expand(batch_shape), self.matrix, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) of ``(..., C, *rest)``, nats."""
        return self.base.log_prob(self._along(self.matrix, value))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws ``(*sample_shape, *batch, C, *rest)``, without a gradient."""
        with torch.no_grad():
            return self._back(self.base.sample(Size(sample_shape)))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws ``(*sample_shape, *batch, C, *rest)``, with a gradient."""
        return self._back(self.base.rsample(Size(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """E[x] = Q^T E[y]."""
        return self._back(self.base.mean)

    def _back(self, y: Tensor) -> Tensor:
        return self._along(self.matrix.mT, y)

    def _along(self, matrix: Tensor, value: Tensor) -> Tensor:
        rest = len(self.event_shape) - 1
        if not rest:
            return value @ matrix.mT
        return (matrix @ value.flatten(-rest)).unflatten(-1, self.event_shape[1:])
