"""A distribution over grids of codes, one after another, with temperature and guidance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import cross_entropy

from pyro_vae.errors import InputError


class Guided:
    """A network's logits with the condition, pushed away from those without it: (1 + s) cond - s uncond.

    Both are computed in one batch of twice the size. Its conditions are ``(batch, 2, ...)``: with and without.

    Args:
        network: the one that is guided.
        scale: s.

    Source: Ho & Salimans 2022, arXiv:2207.12598.
    """

    def __init__(self, network: CodeNetwork, scale: float) -> None:
        self.network, self.scale = network, scale

    def logits(self, codes: Tensor, condition: Condition) -> Tensor:
        """Logits ``(batch, K, *shape)``."""
        return self._guide(self.network.logits(codes.repeat_interleave(2, 0), _flat(condition)))

    def steps(self, batch: int, condition: Condition) -> GuidedSteps:
        """The memory of both."""
        return GuidedSteps(self, batch, condition)

    def _guide(self, logits: Tensor) -> Tensor:
        given, free = logits.unflatten(0, (-1, 2)).unbind(1)
        return given.lerp(free, -self.scale)  # given + s (given - free)


class GuidedSteps:
    """Logits of one position after another.

    Args:
        guided: the network.
        batch: how many grids.
        condition: ``(batch, 2, ...)``.
    """

    def __init__(self, guided: Guided, batch: int, condition: Condition) -> None:
        self.guided, self.batch = guided, batch
        self.steps = guided.network.steps(2 * batch, _flat(condition))
        self.codes: Tensor | None = None

    def __call__(self, position: int, codes: Tensor) -> Tensor:
        """Logits ``(batch, K)`` at a position."""
        if self.codes is None:
            self.codes = codes.repeat_interleave(2, 0)  # (2 * batch, N)
        if position > 0:
            self.codes[:, position - 1] = codes[:, position - 1].repeat_interleave(2)
        return self.guided._guide(self.steps(position, self.codes))


def _flat(condition: Condition) -> dict[str, Tensor]:
    return {name: value.flatten(0, 1) for name, value in condition.items()}


Condition = Mapping[str, Tensor]


class Steps(Protocol):
    """The memory of one sample in the making: gives the logits of one position after another."""

    def __call__(self, position: int, codes: Tensor) -> Tensor:
        """Logits ``(batch, K)`` at a position, called for 0, 1, …, N-1 in turn.

        Args:
            position: i, counted row by row.
            codes: ``(batch, N)``, of which the first i are known; the others are not to be looked at.
        """


class CodeNetwork(Protocol):
    """The network of an autoregressive distribution. Here a batch is one dimension, also in the condition."""

    def logits(self, codes: Tensor, condition: Condition) -> Tensor:
        """Logits ``(batch, K, *shape)`` at all positions, in one pass over codes ``(batch, *shape)``."""

    def steps(self, batch: int, condition: Condition) -> Steps:
        """The memory for a batch of new samples."""


class Autoregressive(TorchDistribution):
    r"""Codes on a grid, row by row: each given those before it and a condition c.

    .. math::
        p(k_1, ..., k_N | c) = \prod_i \mathrm{softmax}(\ell_i(k_{<i}, c) / T)_{k_i}

    ``log_prob`` is one pass of the network over all positions, in nats; ``sample`` computes each position once, from
    what the positions before it left in memory. With ``top_k``, at each position only the k most probable codes have a
    probability, with ``top_p`` only the fewest most probable ones that have at least p together (codes exactly as
    probable as the last of them stay as well). Temperature, top_k, top_p and guidance define another distribution:
    ``sample`` draws from it and ``log_prob`` is its own.

    Args:
        network: gives logits.
        num_codes: K.
        shape: of the grid, the event shape.
        condition: what the network is given, by name, each ``(*condition_shape, ...)``.
        condition_shape: the leading dimensions of the condition; the batch shape until ``expand``.
        device: where samples are made.
        validate_args: check values; by default torch's global setting.

    Example:
        >>> from pyro_vae.priors import GatedPixelCNN
        >>> codes = GatedPixelCNN(num_codes=6, shape=(4, 4), channels=8, num_layers=2)()
        >>> codes.event_shape, codes.tempered(temperature=0.7, top_k=3).sample((2,)).shape
        (torch.Size([4, 4]), torch.Size([2, 4, 4]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(
        self,
        network: CodeNetwork,
        num_codes: int,
        shape: Sequence[int],
        condition: Condition | None = None,
        condition_shape: Sequence[int] = (),
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.network, self.num_codes, self.device = network, num_codes, device
        self.condition, self.condition_shape = dict(condition or {}), torch.Size(condition_shape)
        self.temperature: float = 1.0
        self.top_k: int | None = None
        self.top_p: float | None = None
        super().__init__(self.condition_shape, torch.Size(shape), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> constraints.Constraint:
        """Codes 0 … K-1 at every position."""
        return constraints.independent(constraints.integer_interval(0, self.num_codes - 1), len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Autoregressive:
        """The same distribution with a larger batch shape; nothing is copied or computed."""
        new = self._get_checked_instance(Autoregressive, _instance)
        for name in KEPT:
            setattr(new, name, getattr(self, name))
        super(Autoregressive, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def tempered(
        self, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
    ) -> Autoregressive:
        """The distribution with another temperature, top_k and top_p, in place of those it has.

        Args:
            temperature: T > 0; below 1 the probable codes become more probable.
            top_k: how many codes a position has to choose from, 1 … K; None: all.
            top_p: what probability those have together, at the temperature and among the top k; in (0, 1]; None: 1.

        Raises:
            InputError: for a temperature that is not positive and finite, or a top_k or top_p out of range.

        Source: Holtzman et al. 2020, arXiv:1904.09751 (top-p).
        """
        if not (temperature > 0 and math.isfinite(temperature)):
            raise InputError(f"temperature must be a positive number, got {temperature}")
        if top_k is not None and not 1 <= top_k <= self.num_codes:
            raise InputError(f"top_k must lie between 1 and the number of codes, {self.num_codes}, got {top_k}")
        if top_p is not None and not 0 < top_p <= 1:
            raise InputError(f"top_p must be a probability above 0, got {top_p}")
        new = self.expand(self.batch_shape)
        new.temperature, new.top_k, new.top_p = float(temperature), top_k, top_p
        return new

    def guided(self, scale: float) -> Autoregressive:
        r"""The distribution whose logits are pushed away from those without the condition: (1 + s) cond - s uncond.

        Args:
            scale: s >= 0; 0 changes nothing.

        Raises:
            InputError: for a negative scale, and if the network was not trained without its condition.

        Source: Ho & Salimans 2022, arXiv:2207.12598.
        """
        if not (scale >= 0 and math.isfinite(scale)):
            raise InputError(f"guidance must not be negative, got {scale}")
        without = getattr(self.network, "without", None)
        if without is None:
            raise InputError("guidance is for a distribution with a condition that it could do without, once")
        flat, shape = self._condition(self.condition_shape), self.condition_shape
        other = {name: value.reshape(*shape, *value.shape[1:]) for name, value in without(flat).items()}
        new = self.expand(self.batch_shape)
        new.network = Guided(self.network, scale)
        new.condition = {name: torch.stack([self.condition[name], other[name]], len(shape)) for name in other}
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of grids in nats, shape ``broadcast(value's, batch_shape)``.

        Args:
            value: codes, int64 ``(..., *shape)``.
        """
        if self._validate_args:
            self._validate_sample(value)
        leading = value.shape[: value.dim() - len(self.event_shape)]
        needed = torch.broadcast_shapes(leading, self.condition_shape)  # what differs; the rest is repetition
        codes = value.expand((*needed, *self.event_shape)).reshape(math.prod(needed), *self.event_shape)
        logits = self._tempered(self.network.logits(codes, self._condition(needed)))  # (batch, K, *shape)
        nats = -cross_entropy(logits, codes, reduction="none").flatten(1).sum(1)
        return nats.reshape(needed).expand(torch.broadcast_shapes(needed, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw codes, int64 ``(*sample_shape, *batch_shape, *shape)``."""
        leading = torch.Size(sample_shape) + self.batch_shape
        batch, num_positions = math.prod(leading), math.prod(self.event_shape)
        codes = torch.zeros(batch, num_positions, dtype=torch.int64, device=self.device)
        steps = self.network.steps(batch, self._condition(leading))
        for i in range(num_positions):
            codes[:, i] = draw(self._tempered(steps(i, codes)))
        return codes.reshape(*leading, *self.event_shape)

    def _condition(self, leading: torch.Size, repeated: int = 0) -> dict[str, Tensor]:
        """The condition for all the grids of leading dimensions, flattened to one.

        Args:
            leading: the dimensions.
            repeated: how many of them, the last ones, are over grids with one and the same condition.
        """
        own = len(self.condition_shape)
        return {
            name: value.reshape((*value.shape[:own], *[1] * repeated, *value.shape[own:]))
            .expand((*leading, *value.shape[own:]))
            .reshape((math.prod(leading), *value.shape[own:]))
            for name, value in self.condition.items()
        }

    def _tempered(self, logits: Tensor) -> Tensor:
        """Logits ``(batch, K, ...)`` at the temperature, minus infinity for codes not among the top k and the top p."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.temperature != 1:
            logits = logits / self.temperature
        if self.top_k is not None and self.top_k < self.num_codes:
            least = logits.topk(self.top_k, dim=1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        if self.top_p is None or self.top_p == 1:
            return logits
        ordered = logits.sort(dim=1, descending=True).values
        probability = ordered.softmax(1)
        beyond = probability.cumsum(1) - probability >= self.top_p  # the more probable ones are enough
        least = ordered.masked_fill(beyond, math.inf).amin(1, keepdim=True)
        return logits.masked_fill(logits < least, -math.inf)


KEPT = ("network", "num_codes", "device", "condition", "condition_shape", "temperature", "top_k", "top_p")


def draw(logits: Tensor) -> Tensor:
    """Draw k ~ softmax(logits), ``(batch, K)`` to ``(batch,)``, by a race: argmax p_k / e_k, e_k = -log u_k ~ Exp(1).

    It uses batch x K uniform random numbers u at every call, so that two samplers with the same logits agree from the
    same state of torch's generator. A code of probability 0 is never drawn.
    """
    noise = torch.rand_like(logits).log_()  # -e; rand is several times as fast as exponential_ on a CPU
    return logits.softmax(-1).div_(noise).argmin(-1)
