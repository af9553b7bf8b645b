"""What lies between the ELBO and log p(x), and whose fault it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Data, Split, held_out
from pyro_vae.errors import InputError
from pyro_vae.evaluation.ais import ais
from pyro_vae.evaluation.annealed import AnnealedLikelihood
from pyro_vae.evaluation.chunks import MEMORY_BUDGET
from pyro_vae.evaluation.log_likelihood import log_likelihood
from pyro_vae.evaluation.refine import RefinedBound, refine
from pyro_vae.evaluation.results import LogLikelihood, mean_and_error, not_finite
from pyro_vae.evaluation.session import positive
from pyro_vae.recording import Compile

PARTICLES = (1, 10, 100, 1000, 5000)


@dataclass
class LikelihoodGap:
    """Bounds on log p(x) of the same data, from the loosest to the tightest, and the gap of the ELBO in two parts.

    Attributes:
        importance: importance-weighted bounds by number of particles K.
        annealed: the estimate by annealing, which stands for log p(x).
        elbo: the ELBO as the guide's networks have it, and with the guide's parameters refined for each datum.
    """

    importance: dict[int, LogLikelihood]
    annealed: AnnealedLikelihood
    elbo: RefinedBound

    @property
    def amortization(self) -> tuple[float, float]:
        """Mean and standard error of refined - amortized ELBO, nats: what the encoder loses to a fit of each datum."""
        return self.elbo.gain

    @property
    def approximation(self) -> tuple[float, float]:
        """Mean and standard error of log p(x) - refined ELBO, nats: what the guide's family cannot express."""
        return self.missing(self.elbo.refined)

    def missing(self, bound: Tensor) -> tuple[float, float]:
        """Mean and standard error, over the same data, of what a bound ``(num_data,)`` lacks of log p(x), nats."""
        return mean_and_error(self.annealed.per_datum - bound)

    @property
    def warnings(self) -> list[str]:
        """What speaks against these numbers, in sentences."""
        told = list(self.annealed.warnings)
        for name, value in self._bounds().items():
            told += not_finite(value, name)
        for k, bound in self.importance.items():
            less, error = self.missing(bound.per_datum)
            if less < -4 * error:
                told.append(f"annealing is {-less:.3g} nats below the bound with K = {k}: more temperatures are needed")
        worse, n = int((self.elbo.refined < self.elbo.amortized).sum()), len(self.elbo.refined)
        if worse > 0.75 * n:  # half of them, where there is nothing to gain
            told.append(f"refinement lowered the ELBO of {worse} of {n} data: more steps or a smaller rate are needed")
        return told

    def arrays(self) -> dict[str, Tensor]:
        """The numbers of each datum, ``(num_data,)`` each, nats unless the name says otherwise."""
        return {**self._bounds(), "annealed": self.annealed.per_datum}

    def to_dict(self) -> dict[str, object]:
        """The summary as plain values, nats."""
        rows = [
            {"bound": name, "mean": mean_and_error(value)[0], "missing": less, "missing_standard_error": error}
            for name, value in self._bounds().items()
            for less, error in [self.missing(value)]
        ]
        return {
            "bounds": rows,
            "annealed": self.annealed.to_dict(),
            "amortization_gap": self.amortization[0],
            "amortization_gap_standard_error": self.amortization[1],
            "approximation_gap": self.approximation[0],
            "approximation_gap_standard_error": self.approximation[1],
            "refined": self.elbo.to_dict(),
            "num_data": len(self.annealed.per_datum),
            "split": self.annealed.split,
            "warnings": self.warnings,
        }

    def _bounds(self) -> dict[str, Tensor]:
        importance = {f"K = {k}": bound.per_datum for k, bound in self.importance.items()}
        return {"ELBO": self.elbo.amortized, "ELBO, refined": self.elbo.refined, **importance}


def likelihood_gap(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data | Split | Mapping[str, Tensor] | Tensor,
    *,
    particles: Sequence[int] = PARTICLES,
    refine_options: Mapping[str, Any] | None = None,
    annealing_options: Mapping[str, Any] | None = None,
    memory_budget: int = MEMORY_BUDGET,
    max_plate_nesting: int = 1,
    seed: int = 0,
    device: str | torch.device | None = None,
    compile: Compile = "auto",
    progress: bool = False,
) -> LikelihoodGap:
    r"""Measure what the ELBO and importance-weighted bounds lack of log p(x), and split the ELBO's gap.

    .. math:: \log p(x) - ELBO = \underbrace{\log p(x) - ELBO^*}_{\text{approximation}}
              + \underbrace{ELBO^* - ELBO}_{\text{amortization}}

    log p(x) is that of :func:`~pyro_vae.evaluation.ais`, and ELBO* has the guide's parameters optimized for each
    datum (:func:`~pyro_vae.evaluation.refine`).

    Args:
        model, guide: as for :func:`~pyro_vae.evaluation.ais`.
        data: on which; a hundred data take minutes on a CPU. Dynamic binarization is drawn once, for all bounds.
        particles: numbers K of importance samples.
        refine_options: arguments of :func:`~pyro_vae.evaluation.refine` of its own, such as ``num_steps``.
        annealing_options: arguments of :func:`~pyro_vae.evaluation.ais` of its own, such as ``num_temperatures``.
        memory_budget, max_plate_nesting, seed, device, compile, progress: as for the three of them.

    Returns:
        all bounds per datum, their paired differences, the two parts of the gap.

    Raises:
        InputError: as the three of them.

    Source: Cremer et al. 2018, arXiv:1801.03558.
    """
    if not particles:
        raise InputError("particles must name at least one number of importance samples, such as 5000")
    for k in particles:
        positive("particles", k)
    common: dict[str, Any] = {
        "max_plate_nesting": max_plate_nesting,
        "seed": seed,
        "device": device,
        "compile": compile,
        "progress": progress,
    }
    budget = {"memory_budget": memory_budget}
    data = held_out(data).fixed()
    annealed = ais(model, guide, data, **{**common, **budget, **(annealing_options or {})})
    elbo = refine(model, guide, data, **{**common, **(refine_options or {})})
    importance = {k: log_likelihood(model, guide, data, num_particles=k, **common, **budget) for k in particles}
    return LikelihoodGap(importance, annealed, elbo)
