"""A distribution over images whose patches are mixtures, independent of one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, constraints


def patches_of(images: Tensor, side: int) -> Tensor:
    """Images parted into square patches, each a vector: channel by channel, and row by row.

    Args:
        images: ``(..., C, height, width)``.
        side: of a patch in pixels; it divides both sides of the images.

    Returns:
        ``(..., height / side, width / side, C * side * side)``.
    """
    parts = images.unflatten(-1, (-1, side)).unflatten(-3, (-1, side))  # (..., C, rows, side, columns, side)
    lead = parts.dim() - 5
    return parts.permute(*range(lead), lead + 1, lead + 3, lead, lead + 2, lead + 4).flatten(-3)


def images_of(patches: Tensor, channels: int, side: int) -> Tensor:
    """Images of square patches: the inverse of :func:`patches_of`.

    Args:
        patches: ``(..., rows, columns, C * side * side)``.
        channels: C of the images.
        side: of a patch in pixels.

    Returns:
        ``(..., C, rows * side, columns * side)``.
    """
    parts = patches.unflatten(-1, (channels, side, side))  # (..., rows, columns, C, side, side)
    lead = parts.dim() - 5
    parts = parts.permute(*range(lead), lead + 2, lead, lead + 3, lead + 1, lead + 4)  # (..., C, r, s, c, s)
    return parts.flatten(-2).flatten(-3, -2)


class PatchMixture(TorchDistribution):
    r"""Images of patches, each from a mixture of its own.

    .. math:: p(x) = \prod_g \sum_k w_{gk} \prod_{i \in g} p_{gk}(x_i)

    The component of a patch is summed over exactly: pixels of a patch depend on one another, and ``log_prob`` has no
    gap.

    Args:
        logits: of the weights w, not normalized, ``(*batch_shape, rows, columns, K)``.
        components: of batch shape ``(*batch_shape, rows, columns, K)`` and event shape (channels * side * side,): a
            patch as a vector, channel by channel and row by row.
        side: of a patch in pixels.
        validate_args: check values; by default torch's global setting.

    Example:
        >>> import torch
        >>> import pyro.distributions as dist
        >>> from pyro_vae.distributions import PatchMixture
        >>> components = dist.Bernoulli(logits=torch.randn(7, 5, 2, 2, 3, 16)).to_event(1)  # 2x2 patches of 4x4, K = 3
        >>> p = PatchMixture(torch.zeros(7, 5, 2, 2, 3), components, side=4)
        >>> p.event_shape, p.log_prob(torch.ones(5, 1, 8, 8)).shape
        (torch.Size([1, 8, 8]), torch.Size([7, 5]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(
        self, logits: Tensor, components: TorchDistribution, side: int, validate_args: bool | None = None
    ) -> None:
        self.logits, self.components, self.side = logits, components, side
        rows, columns = logits.shape[-3:-1]
        channels = components.event_shape[0] // side**2
        super().__init__(
            logits.shape[:-3], torch.Size((channels, rows * side, columns * side)), validate_args=validate_args
        )

    @constraints.dependent_property(is_discrete=True, event_dim=3)
    def support(self) -> constraints.Constraint:
        """What each number may be."""
        return constraints.independent(self.components.support.base_constraint, 3)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PatchMixture:
        """The same distribution with a larger batch shape; nothing is copied or computed."""
        new = self._get_checked_instance(PatchMixture, _instance)
        new.logits, new.components, new.side = self.logits, self.components, self.side
        super(PatchMixture, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of images ``(..., C, height, width)`` in nats, ``broadcast(value's, batch_shape)``.

        Raises:
            ValueError: if validation is on and a number is outside the support.
        """
        if self._validate_args:
            self._validate_sample(value)
        nats = self.components.log_prob(patches_of(value, self.side).unsqueeze(-2))  # (..., rows, columns, K)
        nats = (nats + self.logits.log_softmax(-1)).logsumexp(-1).sum((-2, -1))
        return nats.expand(torch.broadcast_shapes(nats.shape, self.batch_shape))

    @property
    def mean(self) -> Tensor:
        """E[x], ``(*batch_shape, C, height, width)``."""
        return self._averaged(self.components.mean)

    @property
    def variance(self) -> Tensor:
        """Var[x], ``(*batch_shape, C, height, width)``."""
        second = self.components.variance + self.components.mean.square()
        return self._averaged(second) - self.mean.square()

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw images, ``(*sample_shape, *batch_shape, C, height, width)``."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.logits.shape[-3:]  # (..., rows, columns, K)
        which = Categorical(logits=self.logits.expand(shape), validate_args=False).sample()  # (..., rows, columns)
        drawn = self.components.expand(shape).sample()  # (..., rows, columns, K, n)
        index = which[..., None, None].expand(*which.shape, 1, drawn.shape[-1])
        return images_of(drawn.gather(-2, index).squeeze(-2), self.event_shape[0], self.side)

    def _averaged(self, values: Tensor) -> Tensor:
        """The mean over components of ``(..., rows, columns, K, n)``, as images."""
        patches = (self.logits.softmax(-1)[..., None] * values).sum(-2)
        images = images_of(patches, self.event_shape[0], self.side)
        return images.expand(*self.batch_shape, *self.event_shape)
