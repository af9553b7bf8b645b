"""Hamiltonian Monte Carlo transitions of many chains of many data at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vae.evaluation.annealed_path import Point


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
