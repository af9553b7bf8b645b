"""What annealing and refinement return: estimates and bounds of log p(x) per datum, and how far they may be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.annealing.path import Start
from pyro_vae.evaluation.results import (
    DataSite,
    LogLikelihood,
    PerDimension,
    Result,
    mean_and_error,
    nats,
    not_finite,
    per_dimension,
)
from pyro_vae.evaluation.shared import SharedLatents
from pyro_vae.programs.sites import of_functions

LOW_ACCEPTANCE = 0.3
WIDE = 3.0  # nats: a gap that is not one of noise


@dataclass(frozen=True)
class Settings:
    """How chains were run.

    Attributes:
        num_chains, num_temperatures, num_leapfrog: C, T, L.
        schedule: "sigmoid", "linear", or "given".
        start: "guide" or "prior".
    """

    num_chains: int
    num_temperatures: int
    num_leapfrog: int
    schedule: str
    start: Start

    @property
    def gradients(self) -> int:
        """Gradients of the densities per datum that the estimate is made of, without those that step sizes took."""
        return self.num_chains * ((self.num_temperatures - 1) * self.num_leapfrog + 1)

    def rows(self, acceptance: Tensor) -> dict[str, str]:
        """What people read of the chains, whose transitions were accepted with these probabilities."""
        found = f"{self.num_chains} x {self.num_temperatures} x {self.num_leapfrog}"
        mean = number_or_none(acceptance.mean())
        return {
            "chains x temperatures x leapfrog": f"{found}, from the {self.start}, {self.schedule}",
            "acceptance": "no transition" if mean is None else f"{mean:.2f}",
        }

    def to_dict(self) -> dict[str, object]:
        """The settings as plain values."""
        return {**vars(self), "gradients_per_datum": self.gradients}


@dataclass
class AnnealedLikelihood(PerDimension):
    """Estimates of log p(x) by annealed importance sampling, lower bounds in expectation.

    Attributes:
        log_weights: log w of each chain and datum, nats, ``(C, num_data)``, float64 on the CPU.
        acceptance: mean probability that a transition was accepted, ``(num_data,)``; nan if there was none (T = 1).
        settings: how the chains were run.
        sites: what the estimates are of, data sites by name.
        split: the name of the data.
        shared: latents that all data share, held at a draw of the guide; None: there are none.
    """

    log_weights: Tensor
    acceptance: Tensor
    settings: Settings
    sites: Mapping[str, DataSite]
    split: str = "data"
    shared: SharedLatents | None = None
    per_datum: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.per_datum = log_mean_exp(self.log_weights)

    @property
    def effective_sample_size(self) -> Tensor:
        """(sum w)^2 / sum w^2 over a datum's chains, between 1 and C, ``(num_data,)``."""
        return effective_sample_size(self.log_weights)

    @property
    def warnings(self) -> list[str]:
        """What speaks against these numbers, in sentences; empty if nothing does."""
        given = [self.shared.sentence] if self.shared else []
        found = doubts(self.log_weights, self.acceptance, "chains")
        of = of_functions(site.of for site in self.sites.values())
        return [*of, *given, *not_finite(self.per_datum, "log-likelihood"), *found]

    @property
    def rows(self) -> dict[str, str]:
        """The estimate, and how the chains went."""
        size = self.effective_sample_size.mean().item()
        given = f" given {self.shared.names}" if self.shared else ""
        of = f" of {self.density_of}" if self.density_of else ""
        return {
            f"log-likelihood{of}{given}, annealed": nats((self.mean, self.standard_error), 3),
            **(self.shared.rows if self.shared else {}),
            **per_dimension(super().to_dict()),
            **self.settings.rows(self.acceptance),
            "effective sample size": f"{size:.1f} of {self.settings.num_chains} chains",
        }

    def arrays(self) -> dict[str, Tensor]:
        """The numbers of each datum, ``(num_data,)`` each, nats unless the name says otherwise."""
        return {
            "log_likelihood": self.per_datum,
            "effective_sample_size": self.effective_sample_size,
            "acceptance": self.acceptance,
        }

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values (nats unless the name says otherwise)."""
        return {
            **super().to_dict(),
            "effective_sample_size": self.effective_sample_size.mean().item(),
            "acceptance": number_or_none(self.acceptance.mean()),
            "num_data": len(self.per_datum),
            "split": self.split,
            **self.settings.to_dict(),
            **({"shared": self.shared.to_dict()} if self.shared else {}),
            "warnings": self.warnings,
        }


@dataclass
class BidirectionalBounds(Result):
    """Bounds on log p(x) from both sides, on data that the model has drawn itself.

    Attributes:
        lower_weights: log w of chains from f_0 to p(x, z), nats, ``(C, num_data)``, float64 on the CPU.
        upper_weights: log w of chains back from the z that the data were made of, ``(C, num_data)``.
        acceptance: mean probability that a transition was accepted, of the two, ``(2, num_data)``.
        settings: how the chains were run.
        lower: log mean w; its expectation is at most log p(x); ``(num_data,)``.
        upper: -log mean 1/w; its expectation is at least log p(x); ``(num_data,)``.
    """

    lower_weights: Tensor
    upper_weights: Tensor
    acceptance: Tensor
    settings: Settings
    lower: Tensor = field(init=False)
    upper: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.lower = log_mean_exp(self.lower_weights)
        self.upper = -log_mean_exp(-self.upper_weights)

    @property
    def gap(self) -> tuple[float, float]:
        """Mean of upper - lower and its standard error, by the differences of the same data, nats."""
        return mean_and_error(self.gaps)

    @property
    def gaps(self) -> Tensor:
        """Upper - lower of each datum, ``(num_data,)``, nats; of a single one it may be negative by chance."""
        return self.upper - self.lower

    @property
    def warnings(self) -> list[str]:
        """What speaks against these numbers, in sentences; empty if nothing does."""
        gap, error = self.gap
        found = not_finite(self.lower, "lower bound") + not_finite(self.upper, "upper bound")
        found += doubts(self.lower_weights, self.acceptance[0], "chains forwards")
        found += doubts(-self.upper_weights, self.acceptance[1], "chains backwards")
        if gap < -4 * error:
            found.append(
                f"the upper bound is below the lower one by {-gap:.3g} nats, with a standard error of {error:.2g}"
            )
        wide = int((self.gaps > WIDE).sum())
        if 0 < wide <= len(self.gaps) / 10:
            found.append(
                f"{wide} of {len(self.gaps)} data have a gap of more than {WIDE:g} nats (up to {self.gaps.max():.3g}): "
                "chains do not find the latents that these data were made of; the median is the gap of the others"
            )
        return found

    @property
    def rows(self) -> dict[str, str]:
        """Both bounds, the gap between them, and how the chains went."""
        return {
            "lower bound": nats(mean_and_error(self.lower), 3),
            "upper bound": nats(mean_and_error(self.upper), 3),
            "gap": nats(self.gap, 3),
            "gap of a datum": f"median {self.gaps.median().item():.3f}, largest {self.gaps.max().item():.3f} nats",
            **self.settings.rows(self.acceptance),
        }

    def arrays(self) -> dict[str, Tensor]:
        """The numbers of each datum, ``(num_data,)`` each, nats unless the name says otherwise."""
        return {"lower": self.lower, "upper": self.upper, "acceptance": self.acceptance.mean(0)}

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values, nats."""
        lower, upper = mean_and_error(self.lower), mean_and_error(self.upper)
        return {
            "lower": lower[0],
            "lower_standard_error": lower[1],
            "upper": upper[0],
            "upper_standard_error": upper[1],
            "gap": self.gap[0],
            "gap_standard_error": self.gap[1],
            "gap_median": self.gaps.median().item(),
            "gap_largest": self.gaps.max().item(),
            "acceptance": number_or_none(self.acceptance.mean()),
            "num_data": len(self.lower),
            "split": "drawn from the model",
            **self.settings.to_dict(),
            "warnings": self.warnings,
        }


@dataclass
class RefinedBound(Result):
    """The ELBO with the guide's parameters as its networks give them, and refined for each datum.

    Attributes:
        amortized, refined: ELBOs, nats, ``(num_data,)``, float64 on the CPU.
        num_steps: of the optimization.
        num_particles: draws that both were measured with.
        split: the name of the data.
        doubts: what was found when the pair was examined, in sentences.
    """

    amortized: Tensor
    refined: Tensor
    num_steps: int
    num_particles: int
    split: str = "data"
    doubts: tuple[str, ...] = ()

    @property
    def gain(self) -> tuple[float, float]:
        """Mean of refined - amortized (the amortization gap) and its standard error over data, nats."""
        return mean_and_error(self.refined - self.amortized)

    @property
    def rows(self) -> dict[str, str]:
        """Both bounds, and the gap between them."""
        bounds = {"ELBO": self.amortized, "ELBO, refined": self.refined}
        found = {name: nats(mean_and_error(value), 3) for name, value in bounds.items()}
        return {**found, "amortization gap of the ELBO": nats(self.gain, 3)}

    def arrays(self) -> dict[str, Tensor]:
        """Both bounds of each datum, nats, ``(num_data,)`` each."""
        return {"amortized": self.amortized, "refined": self.refined}

    @property
    def warnings(self) -> list[str]:
        """What speaks against these numbers, in sentences."""
        found = [*self.doubts, *not_finite(self.amortized, "ELBO"), *not_finite(self.refined, "ELBO, refined")]
        worse, n = int((self.refined < self.amortized).sum()), len(self.refined)
        if worse > 0.75 * n:  # half of them, where there is nothing to gain
            found.append(f"refinement lowered the ELBO of {worse} of {n} data: more steps or a smaller rate are needed")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values, nats."""
        return {
            "amortized": mean_and_error(self.amortized)[0],
            "refined": mean_and_error(self.refined)[0],
            "gain": self.gain[0],
            "gain_standard_error": self.gain[1],
            "num_steps": self.num_steps,
            "num_particles": self.num_particles,
            "num_data": len(self.refined),
            "split": self.split,
        }


@dataclass
class LikelihoodGap(Result):
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
        found = [*dict.fromkeys([*self.annealed.warnings, *self.elbo.warnings])]
        for k, bound in self.importance.items():
            found += not_finite(bound.per_datum, f"K = {k}")
            less, error = self.missing(bound.per_datum)
            if less < -4 * error:
                found.append(f"annealing is {-less:.3g} nats below the bound with K = {k}: it takes more temperatures")
        return found

    @property
    def rows(self) -> dict[str, str]:
        """The estimate by annealing, what each bound lacks of it, and the parts of the gap."""
        bounds = {
            name: f"{mean_and_error(value)[0]:.3f} nats, lacks {less:.3f} +- {error:.3f}"
            for name, value in self._bounds().items()
            for less, error in [self.missing(value)]
        }
        parts = {"approximation": self.approximation, "amortization": self.amortization}
        gaps = {f"{part} gap of the ELBO": nats(value, 3) for part, value in parts.items()}
        return {**self.annealed.rows, **bounds, **gaps}

    def arrays(self) -> dict[str, Tensor]:
        """The numbers of each datum, ``(num_data,)`` each, nats unless the name says otherwise."""
        return {**self._bounds(), "annealed": self.annealed.per_datum}

    def to_dict(self) -> dict[str, Any]:
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


def log_mean_exp(log_w: Tensor) -> Tensor:
    """log of the mean over the first dimension."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def effective_sample_size(log_w: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 over the first dimension."""
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()


def number_or_none(value: Tensor) -> float | None:
    """A number, None if it is not one: JSON has no nan."""
    return None if bool(value.isnan()) else value.item()


def doubts(log_w: Tensor, acceptance: Tensor, who: str) -> list[str]:
    """Sentences on chains that hardly moved, and on data whose estimate is one chain's."""
    found, n = [], len(acceptance)
    still = int((acceptance < LOW_ACCEPTANCE).sum())
    if still:
        found.append(
            f"{who} of {still} of {n} data moved in less than {LOW_ACCEPTANCE:.0%} of their transitions: more leapfrog "
            "steps or temperatures are needed"
        )
    single = int((effective_sample_size(log_w) < 1.5).sum()) if len(log_w) > 1 else 0
    if single > n / 10:
        found.append(
            f"one of the {who} has nearly all the weight in {single} of {n} data: the bound is loose there; more "
            "temperatures are needed"
        )
    if not bool(torch.isfinite(log_w).all()):
        found.append(f"some {who} ended in weights that are not finite")
    return found
