"""The uniform distribution over grids of codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, constraints
from torch.distributions.kl import register_kl


class UniformCodes(TorchDistribution):
    r"""p(codes) = K^{-N} for every grid of N codes 0 … K-1, so that log p = -N log K nats.

    Args:
        num_codes: K.
        shape: of the grid, the event shape; N is its number of positions.
        batch_shape: of independent grids.
        device: of the samples.
        dtype: of the log-probabilities; torch's default if not given.
        validate_args: check values; by default torch's global setting.

    Example:
        >>> from pyro_vae.distributions import UniformCodes
        >>> UniformCodes(num_codes=6, shape=(4, 4)).sample((5,)).shape
        torch.Size([5, 4, 4])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(
        self,
        num_codes: int,
        shape: Sequence[int],
        batch_shape: Sequence[int] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.num_codes, self.device, self.dtype = num_codes, device, dtype
        super().__init__(torch.Size(batch_shape), torch.Size(shape), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> constraints.Constraint:
        """Codes 0 … K-1 at every position."""
        return constraints.independent(constraints.integer_interval(0, self.num_codes - 1), len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> UniformCodes:
        """The same distribution with a larger batch shape."""
        return UniformCodes(self.num_codes, self.event_shape, batch_shape, self.device, self.dtype, self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """-N log K nats for each grid, shape ``broadcast(value's, batch_shape)``."""
        if self._validate_args:
            self._validate_sample(value)
        leading = value.shape[: value.dim() - len(self.event_shape)]
        shape = torch.broadcast_shapes(leading, self.batch_shape)
        nats = math.prod(self.event_shape) * math.log(self.num_codes)
        return torch.full(shape, -nats, device=value.device, dtype=self.dtype)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw codes, int64 ``(*sample_shape, *batch_shape, *shape)``."""
        return torch.randint(self.num_codes, self._extended_shape(torch.Size(sample_shape)), device=self.device)


@register_kl(Independent, UniformCodes)
def _kl(q: Independent, p: UniformCodes) -> Tensor:
    """N log K minus q's entropy, nats, for independent categoricals q over the grid."""
    nats = math.prod(p.event_shape) * math.log(p.num_codes)
    return (nats - q.entropy()).expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))
