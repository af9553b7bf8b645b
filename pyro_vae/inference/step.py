"""One training step's forward pass as a module: loss and named terms of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.inference.kl_weight import KLWeighted
from pyro_vae.inference.objective import Objective
from pyro_vae.inference.rank_noise import RankNoise
from pyro_vae.program import Program


class Step(nn.Module):
    """An objective applied to a pair of programs: ``step(**batch)`` gives the loss and a row of terms.

    Args:
        model, guide: the programs.
        objective: what is minimized.
        kl_weight: live weight of the latent sites (None: not weighted).
        rank, world: this process among data-parallel ones.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        objective: Objective,
        kl_weight: Tensor | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.names: list[str] = []
        self.model: nn.Module = model if kl_weight is None else KLWeighted(model, kl_weight)
        if world > 1:
            guide = _WithRankNoise(guide, rank, world, objective)
        self.guide: nn.Module = guide if kl_weight is None else KLWeighted(guide, kl_weight, of_guide=True)

    def forward(self, **batch: Any) -> tuple[Tensor, Tensor]:
        """Loss (scalar, nats per datum) and the terms ``(len(self.names),)``, detached."""
        terms = self.objective.terms(self.model, self.guide, **batch)
        named = terms.named()
        self.names = list(named)
        return terms.loss, torch.stack(list(named.values()))


class _WithRankNoise(nn.Module):
    def __init__(self, program: nn.Module, rank: int, world: int, objective: Objective) -> None:
        super().__init__()
        self.program = program
        self.noise = (rank, world, objective.num_particles, -(objective.plate_nesting + 1))

    def forward(self, **batch: Any) -> Any:
        with RankNoise(*self.noise):
            return self.program(**batch)
