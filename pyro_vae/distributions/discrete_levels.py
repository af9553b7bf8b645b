"""A categorical distribution whose outcomes are grey levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, constraints
from torch.nn.functional import cross_entropy

from pyro_vae.distributions.levels import Levels, level_index, level_value


class DiscretizedCategorical(TorchDistribution):
    """p(x = k / (K-1)) = softmax(logits)_k,  k = 0 ... K-1: any distribution over K grey levels on [0, 1].

    ``log_prob`` is in nats, a probability (not a density).

    Args:
        logits: ``(*batch_shape, K)``, not necessarily normalized.
        validate_args: check arguments and data; by default torch's global setting.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}
    has_rsample = False

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        self.num_levels = logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Levels:
        """The K levels."""
        return Levels(self.num_levels)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> DiscretizedCategorical:
        """The same distribution with a larger batch shape, without copying."""
        new = self._get_checked_instance(DiscretizedCategorical, _instance)
        batch_shape = torch.Size(batch_shape)
        new.logits = self.logits.expand((*batch_shape, self.num_levels))
        new.num_levels = self.num_levels
        super(DiscretizedCategorical, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability in nats of values on the levels, shape ``broadcast(value, batch_shape)``.

        Raises:
            ValueError: if validation is on and a value is no level.
        """
        if self._validate_args:
            self._validate_sample(value)
        index = level_index(value, self.num_levels)
        shape = torch.broadcast_shapes(index.shape, self.logits.shape[:-1])
        logits = self.logits.expand((*shape, self.num_levels))
        if shape:  # levels second, as cross_entropy wants them and as image decoders give them: no copy
            logits = logits.movedim(-1, 1)
        return -cross_entropy(logits, index.expand(shape), reduction="none")

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw levels, ``(*sample_shape, *batch_shape)``."""
        index = Categorical(logits=self.logits, validate_args=False).sample(torch.Size(sample_shape))
        return level_value(index, self.num_levels, self.logits.dtype)

    @property
    def _levels(self) -> Tensor:
        levels = torch.arange(self.num_levels, device=self.logits.device)
        return level_value(levels, self.num_levels, self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        """Expected grey value in [0, 1]."""
        return self.logits.softmax(-1) @ self._levels

    @property
    def mode(self) -> Tensor:
        """The most probable level."""
        return level_value(self.logits.argmax(-1), self.num_levels, self.logits.dtype)

    @property
    def variance(self) -> Tensor:
        """Variance of the grey value."""
        deviation = self._levels - self.mean.unsqueeze(-1)  # (*batch, K)
        return (self.logits.softmax(-1) * deviation**2).sum(-1)
