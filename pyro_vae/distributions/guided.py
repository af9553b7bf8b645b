"""Classifier-free guidance of an autoregressive distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from pyro_vae.distributions.autoregressive import CodeNetwork, Condition


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
