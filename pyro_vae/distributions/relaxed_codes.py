"""The relaxed (Gumbel-softmax) distribution over grids of one-hot codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl
from torch.distributions.utils import lazy_property

from pyro_vae.errors import InputError

_LOG = "log_relaxed"  # a draw carries its logarithm: at low temperatures most of its entries underflow to 0


class RelaxedCodes(TorchDistribution):
    r"""A grid of Concrete (Gumbel-softmax) variables: one-hot codes at temperature 0, mixtures of them above it.

    .. math:: y_k = \frac{\exp((\ln \pi_k + g_k) / \tau)}{\sum_j \exp((\ln \pi_j + g_j) / \tau)}, \quad
              g_k \sim \mathrm{Gumbel}(0, 1)

    at every position of the grid, independently. K is the *first* dimension of the event, like the channels of
    features.

    ``log_prob`` is the relaxed density in nats, with respect to the first K-1 entries of y at each position,

    .. math:: \ln (K-1)! + (K-1) \ln \tau + \sum_k (\ln \pi_k - (\tau + 1) \ln y_k) - K \ln \sum_k \pi_k y_k^{-\tau}

    (summed over positions). Low temperatures make the entries of y too small for floating point; a draw therefore
    carries ln y with it, as an attribute that ``log_prob`` reads. Of other values the logarithm is taken, with zeros
    counted as the smallest positive number: exact as long as nothing underflows, which in float32 needs temperatures of
    about 0.5 and more.

    ``kl_divergence(q, p)`` is that of the *categorical* distributions with these logits, summed over positions: the
    closed form of what both approach at temperature 0. It is no KL of the relaxed densities; the temperature does not
    matter.

    Args:
        logits: unnormalized ln pi, ``(*batch_shape, K, *grid)``; computed with in float32 at least.
        temperature: tau > 0, a number or a 0-dimensional tensor, which may change in place between uses.
        rank: of the grid: 2 for images, 1 for signals.
        straight_through: draws are exactly one-hot, with the gradient of the relaxed y. ``log_prob`` then is that
            of the relaxed y.
        validate_args: check arguments and values; by default torch's global setting.

    Raises:
        InputError: if the logits lack dimensions, or the temperature is a number that is not positive.

    Source: Maddison et al. 2017, arXiv:1611.00712; Jang et al. 2017, arXiv:1611.01144.

    Example:
        >>> import torch
        >>> from pyro_vae.distributions import RelaxedCodes
        >>> y = RelaxedCodes(torch.zeros(5, 6, 4, 4), temperature=0.5).rsample()  # of 6 codes on a grid of 4 x 4
        >>> y.shape, torch.allclose(y.sum(1), torch.ones(5, 4, 4))
        (torch.Size([5, 6, 4, 4]), True)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(
        self,
        logits: Tensor,
        temperature: Tensor | float,
        rank: int = 2,
        straight_through: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        if logits.dim() < rank + 1:
            raise InputError(f"logits must have shape (..., K, *grid) with a grid of rank {rank}, got {logits.shape}")
        if not isinstance(temperature, Tensor) and not temperature > 0:
            raise InputError(f"temperature must be positive, got {temperature}")
        self.logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        self.temperature, self.rank, self.straight_through = temperature, rank, straight_through
        shape, split = logits.shape, logits.dim() - rank - 1
        super().__init__(shape[:split], shape[split:], validate_args=validate_args)

    @property
    def num_codes(self) -> int:
        """K."""
        return self.event_shape[0]

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """Positive weights that sum to one over K, at every position."""
        return _OneHotGrid(self.rank)

    @property
    def log_probs(self) -> Tensor:
        """Normalized ln pi, ``(*batch_shape, K, *grid)``."""
        return self._log_probs

    @lazy_property
    def _log_probs(self) -> Tensor:
        return self.logits.log_softmax(-self.rank - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RelaxedCodes:
        """The same distribution with a larger batch shape, without copying."""
        logits = self.logits.expand((*batch_shape, *self.event_shape))
        return RelaxedCodes(logits, self.temperature, self.rank, self.straight_through, self._validate_args)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw relaxed one-hot grids, ``(*sample_shape, *batch_shape, K, *grid)``."""
        dim = -self.rank - 1
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.empty(shape, dtype=self.logits.dtype, device=self.logits.device).exponential_()
        log_y = ((self.logits - noise.log()) / self.temperature).log_softmax(dim)
        y = log_y.exp()
        if self.straight_through:
            hard = torch.zeros_like(y).scatter(dim, log_y.argmax(dim, keepdim=True), 1.0)
            y = hard + (y - y.detach())
        setattr(y, _LOG, log_y)
        return y

    def log_prob(self, value: Tensor) -> Tensor:
        """The relaxed density in nats, shape ``broadcast(value's leading dimensions, batch_shape)``.

        Raises:
            InputError: for values of another shape (integer codes, say), and for straight-through values that are not
                the very tensor that was drawn.
            ValueError: if validation is on and a value is no mixture of codes.
        """
        event = self.event_shape
        if not value.is_floating_point() or value.shape[max(value.dim() - len(event), 0) :] != event:
            raise InputError(
                f"RelaxedCodes takes mixtures of codes of shape (..., {', '.join(map(str, event))}), got "
                f"{tuple(value.shape)} of {value.dtype}"
            )
        if self._validate_args:
            self._validate_sample(value)
        log_y = getattr(value, _LOG, None)
        if log_y is None and self.straight_through:
            raise InputError("the density of a straight-through draw is known for the very tensor that was drawn only")
        if log_y is None:
            log_y = value.clamp(min=torch.finfo(value.dtype).tiny).log()
        return self._log_density(log_y)

    def _log_density(self, log_y: Tensor) -> Tensor:
        """For ln y ``(..., K, *grid)``."""
        dim, count, tau = -self.rank - 1, self.num_codes, torch.as_tensor(self.temperature, device=log_y.device)
        positions = math.prod(self.event_shape[1:])
        terms = (self.logits - (tau + 1) * log_y).sum(dim) - count * (self.logits - tau * log_y).logsumexp(dim)
        constant = math.lgamma(count) + (count - 1) * tau.log()
        return terms.flatten(-self.rank).sum(-1) + positions * constant


class RelaxedUniformCodes(RelaxedCodes):
    """:class:`RelaxedCodes` with equal probabilities 1 / K.

    Args:
        num_codes: K.
        shape: of the grid.
        temperature: tau; on whose device samples are made, if it is a tensor.
        batch_shape: of independent grids.
        validate_args: check arguments and values; by default torch's global setting.

    Example:
        >>> from pyro_vae.distributions import RelaxedUniformCodes
        >>> RelaxedUniformCodes(num_codes=6, shape=(4, 4), temperature=0.5).rsample((5,)).shape
        torch.Size([5, 6, 4, 4])
    """

    def __init__(
        self,
        num_codes: int,
        shape: Sequence[int],
        temperature: Tensor | float,
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        zero = torch.zeros_like(temperature) if isinstance(temperature, Tensor) else torch.zeros(())
        logits = zero.expand((*batch_shape, num_codes, *shape))  # one number in memory
        super().__init__(logits, temperature, len(shape), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RelaxedUniformCodes:
        """The same distribution with a larger batch shape."""
        shape = self.event_shape[1:]
        return RelaxedUniformCodes(self.num_codes, shape, self.temperature, batch_shape, self._validate_args)


@register_kl(RelaxedCodes, RelaxedCodes)
def _categorical_kl(q: RelaxedCodes, p: RelaxedCodes) -> Tensor:
    """sum_i sum_k pi_ik ln(pi_ik / rho_ik), nats."""
    terms = q.log_probs.exp() * (q.log_probs - p.log_probs)  # (..., K, *grid)
    return terms.flatten(-q.rank - 1).sum(-1)


@register_kl(RelaxedCodes, RelaxedUniformCodes)
def _categorical_kl_uniform(q: RelaxedCodes, p: RelaxedUniformCodes) -> Tensor:
    """N ln K - sum of the entropies, nats."""
    terms = q.log_probs.exp() * q.log_probs  # (..., K, *grid)
    kl = terms.flatten(-q.rank - 1).sum(-1) + math.prod(q.event_shape[1:]) * math.log(q.num_codes)
    return kl.expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))


class _OneHotGrid(constraints.Constraint):
    """Weights that sum to one over the dimension before the grid's."""

    def __init__(self, rank: int) -> None:
        self.rank, self.event_dim = rank, rank + 1
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each grid is such."""
        sums = value.sum(-self.rank - 1)  # (..., *grid)
        good = (value >= 0).flatten(-self.rank - 1).all(-1)
        return good & ((sums - 1).abs() < 1e-5).flatten(-self.rank).all(-1)
