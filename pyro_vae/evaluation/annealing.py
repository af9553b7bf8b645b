"""Chains along a path of densities, forwards and backwards, and the sizes of their steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.evaluation.annealed_path import Densities, Point
from pyro_vae.evaluation.hmc import transition

ACCEPTANCE = 0.65  # best for HMC in many dimensions (Neal 2011, arXiv:1206.1901, section 5.4)
SETTLING = 20  # transitions at the first temperature, before step sizes are written down
RATE = 0.3  # of log(step size) per unit of acceptance
MEMORY = 0.9  # of the chains' variances, from one temperature to the next
ENOUGH = 4  # chains to tell variances from


@dataclass
class StepSizes:
    """Step sizes along a path, found by chains of their own, so that the chains that count have fixed transitions.

    Attributes:
        beta: exponents, rising, ``(P,)``, on the CPU.
        step: of each datum and each number at them, ``(P, N, D)``.
    """

    beta: Tensor
    step: Tensor

    def at(self, beta: float) -> Tensor:
        """The step sizes ``(N, D)`` at an exponent, linear in between."""
        above = int(torch.searchsorted(self.beta, beta).clamp(1, max(len(self.beta) - 1, 1)))
        if len(self.beta) == 1:
            return self.step[0]
        low, high = self.beta[above - 1].item(), self.beta[above].item()
        share = min(max((beta - low) / (high - low), 0.0), 1.0) if high > low else 0.0
        return torch.lerp(self.step[above - 1], self.step[above], share)


@dataclass
class Weights:
    """What chains bring home.

    Attributes:
        log_w: log-weights, nats, ``(C, N)``, float64.
        acceptance: mean probability of acceptance, ``(N,)``; nan if there was no transition.
    """

    log_w: Tensor
    acceptance: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Weights]) -> Weights:
        """Those of all data from those of chunks, on the CPU in float64."""
        log_w, acceptance = torch.cat([w.log_w for w in parts], 1), torch.cat([w.acceptance for w in parts])
        return cls(log_w.cpu(), acceptance.double().cpu())


def tune(densities: Densities, beta: list[float], num_leapfrog: int, told: Callable[[], object]) -> StepSizes:
    """Find step sizes that 65% of the transitions are accepted with, by annealing once through these exponents.

    A datum's chains have one step size, times the standard deviation of each number over the chains.

    Args:
        densities: of a batch.
        beta: exponents, rising.
        num_leapfrog: steps of a trajectory.
        told: called after every transition.
    """
    point = densities.draw()
    variance = _variance(point.u)
    log_step = torch.full_like(point.log_start[0], -0.7)  # (N,)
    found = []
    for i, b in enumerate([beta[0]] * SETTLING + beta):
        step = log_step.exp()[:, None] * variance.sqrt()
        point, accepted = transition(densities.at, point, b, step, num_leapfrog)
        variance = torch.lerp(_variance(point.u), variance, MEMORY)
        log_step = log_step + RATE * (accepted.mean(0) - ACCEPTANCE)
        if i >= SETTLING:
            found.append(log_step.exp()[:, None] * variance.sqrt())
        told()
    return StepSizes(torch.tensor(beta, dtype=torch.float64), torch.stack(found))


def forwards(
    densities: Densities, beta: list[float], sizes: StepSizes, num_leapfrog: int, told: Callable[[], object]
) -> Weights:
    r"""Chains from f_0 to f_1, whose weights have the mean p(x).

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \log \frac{f_1(u_{t-1})}{f_0(u_{t-1})}, \quad
              u_0 \sim f_0, \; u_t \sim T_{\beta_t}(\cdot | u_{t-1})

    Source: Neal 2001, arXiv:physics/9803008.
    """
    return _along(densities, densities.draw(), beta, sizes, num_leapfrog, told)


def backwards(
    densities: Densities,
    exact: Point,
    beta: list[float],
    sizes: StepSizes,
    num_leapfrog: int,
    told: Callable[[], object],
) -> Weights:
    """The same chains run backwards from exact samples of the posterior: the mean of 1 / w is 1 / p(x).

    Source: Grosse et al. 2015, arXiv:1511.02543.
    """
    back = _along(densities, exact, beta[::-1], sizes, num_leapfrog, told)
    return Weights(-back.log_w, back.acceptance)


def _along(
    densities: Densities,
    point: Point,
    beta: list[float],
    sizes: StepSizes,
    num_leapfrog: int,
    told: Callable[[], object],
) -> Weights:
    """Chains from beta[0] to beta[-1]: a step of the exponent, then a transition there, none after the last step."""
    log_w = torch.zeros_like(point.log_start, dtype=torch.float64)
    total = torch.zeros_like(point.log_start[0])
    for before, after in itertools.pairwise(beta):
        log_w = log_w + (after - before) * (point.log_target - point.log_start).double()
        if after != beta[-1]:
            point, accepted = transition(densities.at, point, after, sizes.at(after), num_leapfrog)
            total = total + accepted.mean(0)
        told()
    return Weights(log_w, total / (len(beta) - 2))


def _variance(u: Tensor) -> Tensor:
    """Variance of each number over a datum's chains, ``(N, D)``; 1 where there are too few to tell."""
    if len(u) < ENOUGH:
        return torch.ones_like(u[0])
    return u.var(0).clamp_min(torch.finfo(u.dtype).tiny)
