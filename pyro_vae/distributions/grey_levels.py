"""Distributions over K equally spaced grey levels on [0, 1]: categorical, and mixtures of logistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, constraints
from torch.distributions.constraints import Constraint
from torch.nn.functional import cross_entropy, logsigmoid

TOLERANCE = 1e-6  # absolute: room for a few roundings in float32, none for another grid


class GreyLevels(Constraint):
    """Values k / (num_levels - 1), k = 0 ... num_levels - 1, up to rounding (1e-6).

    Args:
        num_levels: K, at least 2; 256 for bytes.

    Example:
        >>> import torch
        >>> from pyro_vae.distributions import GreyLevels
        >>> GreyLevels(3).check(torch.tensor([0.0, 0.5, 0.7]))
        tensor([ True,  True, False])
    """

    is_discrete = True
    event_dim = 0

    def __init__(self, num_levels: int) -> None:
        self.num_levels = num_levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is one of the levels; False for NaN."""
        steps = self.num_levels - 1
        nearest = (value * steps).round().clamp(0, steps) / steps
        return (value - nearest).abs() <= TOLERANCE

    def __repr__(self) -> str:
        """The levels, for messages."""
        return f"GreyLevels(k/{self.num_levels - 1}, k = 0..{self.num_levels - 1})"


def level_index(value: Tensor, num_levels: int) -> Tensor:
    """The index of the level nearest to a value in [0, 1], as an integer tensor of the value's shape."""
    return (value * (num_levels - 1)).round().long().clamp(0, num_levels - 1)


def level_value(index: Tensor, num_levels: int, dtype: torch.dtype) -> Tensor:
    """The value k / (num_levels - 1) of level k."""
    return index.to(dtype) / (num_levels - 1)


class DiscretizedCategorical(TorchDistribution):
    """p(x = k / (K-1)) = softmax(logits)_k,  k = 0 ... K-1: any distribution over K grey levels on [0, 1].

    ``log_prob`` is in nats, a probability (not a density).

    Args:
        logits: ``(*batch_shape, K)``, not necessarily normalized.
        validate_args: check arguments and data; by default torch's global setting.

    Example:
        >>> import torch
        >>> from pyro_vae.distributions import DiscretizedCategorical
        >>> fn = DiscretizedCategorical(torch.zeros(5, 3))  # levels 0, 1/2 and 1
        >>> fn.batch_shape, fn.mean[0]
        (torch.Size([5]), tensor(0.5000))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}
    has_rsample = False

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        self.num_levels = logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> GreyLevels:
        """The K levels."""
        return GreyLevels(self.num_levels)

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


MIN_LOG_SCALE = -7.0  # in units where the data span [-1, 1]: at 256 levels, 96 % of the mass fits one bin


class DiscretizedLogisticMixture(TorchDistribution):
    r"""Probability of the bin around a grey level under a mixture of M logistics.

    .. math::
        p(x_k) = \sum_m \pi_m \left[\sigma\!\left(\frac{u_k + h - \mu_m}{s_m}\right)
                 - \sigma\!\left(\frac{u_k - h - \mu_m}{s_m}\right)\right],
        \quad u_k = 2 x_k - 1,\; x_k = k / (K-1),\; h = 1 / (K-1)

    The data x lie in [0, 1]; locations and scales are in the units of u, in which the data span [-1, 1]. Bins
    are 1/(K-1) wide in x; the two edge bins are open to infinity, so the K probabilities sum to one. Each bin
    is evaluated in the log domain, by sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - exp(b - a)), which loses
    no precision where its mass is tiny. ``log_prob`` is in nats, a probability (not a density).

    Source: Salimans et al. 2017 (PixelCNN++, arXiv:1701.05517), there with coupled colour channels; here
    every element is independent.

    Args:
        logits: mixture logits, ``(*batch_shape, M)``.
        loc: mu, ``(*batch_shape, M)``.
        log_scale: log s, ``(*batch_shape, M)``; values below -7 count as -7.
        num_levels: K.
        validate_args: check arguments and data; by default torch's global setting.

    Example:
        >>> import torch
        >>> from pyro_vae.distributions import DiscretizedLogisticMixture
        >>> logits, loc, log_scale = torch.zeros(3, 5, 2)  # 5 elements, 2 components
        >>> fn = DiscretizedLogisticMixture(logits, loc, log_scale, num_levels=4)
        >>> fn.batch_shape, fn.log_prob(torch.tensor([0.0])).shape
        (torch.Size([5]), torch.Size([5]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        name: constraints.real_vector for name in ("logits", "loc", "log_scale")
    }
    has_rsample = False

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        log_scale: Tensor,
        num_levels: int = 256,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.log_scale = torch.broadcast_tensors(logits, loc, log_scale)
        self.num_levels = num_levels
        super().__init__(self.logits.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> GreyLevels:
        """The K levels."""
        return GreyLevels(self.num_levels)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> DiscretizedLogisticMixture:
        """The same distribution with a larger batch shape, without copying."""
        new = self._get_checked_instance(DiscretizedLogisticMixture, _instance)
        batch_shape = torch.Size(batch_shape)
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand((*batch_shape, -1)))
        new.num_levels = self.num_levels
        super(DiscretizedLogisticMixture, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability in nats of values on the levels, shape ``broadcast(value, batch_shape)``.

        Raises:
            ValueError: if validation is on and a value is no level.
        """
        if self._validate_args:
            self._validate_sample(value)
        return self._log_prob_of_level(level_index(value, self.num_levels))

    def _log_prob_of_level(self, index: Tensor) -> Tensor:
        half = 1 / (self.num_levels - 1)
        log_scale = self.log_scale.clamp(min=MIN_LOG_SCALE)
        precision = torch.exp(-log_scale)
        centre = (2 * level_value(index, self.num_levels, self.loc.dtype) - 1).unsqueeze(-1)  # (..., 1)
        upper = (centre + half - self.loc) * precision  # (..., M)
        lower = (centre - half - self.loc) * precision
        below = logsigmoid(upper)  # log P(X < upper edge)
        above = logsigmoid(-lower)  # log P(X > lower edge)
        inside = below + above + torch.log(-torch.expm1(-2 * half * precision))
        index = index.unsqueeze(-1)
        mass = torch.where(index == 0, below, torch.where(index == self.num_levels - 1, above, inside))
        return (self.logits.log_softmax(-1) + mass).logsumexp(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw a component, a logistic value, and round it to a level: ``(*sample_shape, *batch_shape)``."""
        sample_shape = torch.Size(sample_shape)
        component = Categorical(logits=self.logits, validate_args=False).sample(sample_shape).unsqueeze(-1)
        shape = (*sample_shape, *self.logits.shape)
        loc = self.loc.expand(shape).gather(-1, component).squeeze(-1)
        log_scale = self.log_scale.expand(shape).gather(-1, component).squeeze(-1).clamp(min=MIN_LOG_SCALE)
        tiny = torch.finfo(loc.dtype).eps
        noise = torch.rand_like(loc).clamp(tiny, 1 - tiny).logit()
        u = loc + log_scale.exp() * noise
        return level_value(level_index((u + 1) / 2, self.num_levels), self.num_levels, loc.dtype)

    @property
    def mean(self) -> Tensor:
        """Expected grey value in [0, 1]: sum over k >= 1 of P(level >= k), divided by K-1."""
        half = 1 / (self.num_levels - 1)
        scale = self.log_scale.clamp(min=MIN_LOG_SCALE).exp()
        weights = self.logits.softmax(-1)
        total = torch.zeros_like(weights)
        for k in range(1, self.num_levels):  # level by level: no (*batch, M, K) in memory
            total = total + torch.sigmoid((self.loc - (2 * k - 1) * half + 1) / scale)
        return (weights * total).sum(-1) * half

    @property
    def mode(self) -> Tensor:
        """The most probable level (the lowest of equals)."""
        best = torch.full(self.batch_shape, -math.inf, dtype=self.loc.dtype, device=self.loc.device)
        mode = torch.zeros_like(best)
        for k in range(self.num_levels):
            index = torch.full(self.batch_shape, k, device=self.loc.device)
            log_prob = self._log_prob_of_level(index)
            mode = torch.where(log_prob > best, level_value(index, self.num_levels, mode.dtype), mode)
            best = torch.maximum(best, log_prob)
        return mode
