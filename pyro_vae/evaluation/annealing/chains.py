"""Hamiltonian Monte Carlo chains along a path of densities, forwards and backwards."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pyro_vae.errors import InputError, positive, unknown
from pyro_vae.evaluation.annealing.path import Densities, Point


def transition(
    at: Callable[[Tensor], Point], point: Point, beta: float, step: Tensor, num_leapfrog: int
) -> tuple[Point, Tensor]:
    r"""One transition of every chain, which leaves f_beta as it is.

    .. math:: p \sim N(0, I), \quad
              p \leftarrow p + \tfrac12 \epsilon \nabla \log f_\beta(u), \;
              u \leftarrow u + \epsilon p, \;
              p \leftarrow p + \tfrac12 \epsilon \nabla \log f_\beta(u), \dots

    accepted with probability min(1, exp(log f_beta(u') - |p'|^2 / 2 - log f_beta(u) + |p|^2 / 2)). A trajectory that
    ends in something not finite is refused.

    Args:
        at: densities at u.
        point: where the chains are, ``(C, N)``.
        beta: exponent of the target.
        step: epsilon, ``(N, D)``: of each number, which is the same as a diagonal mass matrix.
        num_leapfrog: steps of a trajectory.

    Returns:
        where the chains are then; the probabilities of acceptance, ``(C, N)``.

    Source: Neal 2011, arXiv:1206.1901.
    """
    momentum = torch.randn_like(point.u)
    before = point.log_density(beta) - 0.5 * momentum.square().sum(-1)
    new = point
    momentum = torch.addcmul(momentum, step, new.gradient(beta), value=0.5)
    for i in range(num_leapfrog):
        new = at(torch.addcmul(new.u, step, momentum))
        momentum = torch.addcmul(momentum, step, new.gradient(beta), value=1.0 if i < num_leapfrog - 1 else 0.5)
    after = new.log_density(beta) - 0.5 * momentum.square().sum(-1)
    log_ratio = (after - before).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    taken = torch.rand_like(log_ratio).log() < log_ratio
    return new.where(taken, point), log_ratio.clamp(max=0).exp()


Schedule = Literal["sigmoid", "linear"]


def temperatures(num_temperatures: int, schedule: Schedule | Sequence[float] = "sigmoid", slope: float = 4.0) -> Tensor:
    r"""Exponents (T + 1,) float64, rising from 0 to 1.

    .. math:: \beta_t = \frac{\sigma_t - \sigma_0}{\sigma_T - \sigma_0}, \quad
              \sigma_t = \mathrm{sigmoid}(s (2 t / T - 1)) \quad\text{or}\quad \beta_t = t / T

    Args:
        num_temperatures: T, steps from one density to the next.
        schedule: "sigmoid" has smaller steps near both ends, "linear" equal ones; or the exponents themselves.
        slope: s.

    Raises:
        InputError: if T is not positive, or exponents do not rise from 0 to 1.

    Source: Wu et al. 2017, arXiv:1611.04273, section 4.
    """
    positive("num_temperatures", num_temperatures)
    if not isinstance(schedule, str):
        beta = torch.as_tensor(schedule, dtype=torch.float64)
        rises = beta.dim() == 1 and len(beta) > 1 and bool((beta.diff() >= 0).all())
        if not (rises and beta[0] == 0 and beta[-1] == 1 and len(beta) == num_temperatures + 1):
            raise InputError(
                f"schedule must be num_temperatures + 1 = {num_temperatures + 1} exponents that rise from 0 to 1"
            )
        return beta
    if schedule not in get_args(Schedule):
        raise unknown("schedule", schedule, get_args(Schedule))
    t = torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)
    if schedule == "linear":
        return t
    s = (slope * (2 * t - 1)).sigmoid()
    return (s - s[0]) / (s[-1] - s[0])


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


def tune(densities: Densities, beta: list[float], num_leapfrog: int, on_transition: Callable[[], object]) -> StepSizes:
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
        on_transition()
    return StepSizes(torch.tensor(beta, dtype=torch.float64), torch.stack(found))


def forwards(
    densities: Densities, beta: list[float], sizes: StepSizes, num_leapfrog: int, on_transition: Callable[[], object]
) -> Weights:
    r"""Chains from f_0 to f_1, whose weights have the mean p(x).

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \log \frac{f_1(u_{t-1})}{f_0(u_{t-1})}, \quad
              u_0 \sim f_0, \; u_t \sim T_{\beta_t}(\cdot | u_{t-1})

    Source: Neal 2001, arXiv:physics/9803008.
    """
    return _along(densities, densities.draw(), beta, sizes, num_leapfrog, on_transition)


def backwards(
    densities: Densities,
    exact: Point,
    beta: list[float],
    sizes: StepSizes,
    num_leapfrog: int,
    on_transition: Callable[[], object],
) -> Weights:
    """The same chains run backwards from exact samples of the posterior: the mean of 1 / w is 1 / p(x).

    Source: Grosse et al. 2015, arXiv:1511.02543.
    """
    back = _along(densities, exact, beta[::-1], sizes, num_leapfrog, on_transition)
    return Weights(-back.log_w, back.acceptance)


def _along(
    densities: Densities,
    point: Point,
    beta: list[float],
    sizes: StepSizes,
    num_leapfrog: int,
    on_transition: Callable[[], object],
) -> Weights:
    """Chains from beta[0] to beta[-1]: a step of the exponent, then a transition there, none after the last step."""
    log_w = torch.zeros_like(point.log_start, dtype=torch.float64)
    total = torch.zeros_like(point.log_start[0])
    for before, after in itertools.pairwise(beta):
        log_w = log_w + (after - before) * (point.log_target - point.log_start).double()
        if after != beta[-1]:
            point, accepted = transition(densities.at, point, after, sizes.at(after), num_leapfrog)
            total = total + accepted.mean(0)
        on_transition()
    return Weights(log_w, total / (len(beta) - 2))


def _variance(u: Tensor) -> Tensor:
    """Variance of each number over a datum's chains, ``(N, D)``; 1 where there are too few to tell."""
    if len(u) < ENOUGH:
        return torch.ones_like(u[0])
    return u.var(0).clamp_min(torch.finfo(u.dtype).tiny)
