"""Pareto k-hat of importance weights: how heavy their tail is, and so whether an estimate can be trusted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

UNRELIABLE = 0.7  # k-hat above this: not even a smoothed estimate is to be trusted
FEWEST = 5  # weights that a tail is fitted to, at least
ROUNDING = 1e-4  # nats: weights closer than this are equal, but for the arithmetic of their log-densities
ELEMENTS = 1 << 18  # numbers of a fit's tensors at once


def tail_length(num_particles: int) -> int:
    r"""M: how many of K weights are the tail, :math:`\lceil \min(K / 5, 3 \sqrt K) \rceil`.

    Source: Vehtari et al. 2024, arXiv:1507.02646.
    """
    return math.ceil(min(num_particles / 5, 3 * math.sqrt(num_particles)))


def largest(log_weights: Tensor, num_particles: int, known: Tensor | None = None) -> Tensor:
    """The M + 1 largest log-weights of each datum, brought up to date with a chunk: all that k-hat needs.

    Args:
        log_weights: a chunk, ``(k, N)``.
        num_particles: K, of all chunks together.
        known: what this gave for the chunks before.

    Returns:
        ``(at most M + 1, N)``, the largest first.
    """
    every = log_weights if known is None else torch.cat([known, log_weights])
    return every.topk(min(tail_length(num_particles) + 1, len(every)), 0).values


def pareto_k(log_weights: Tensor) -> Tensor:
    """k-hat of each datum's weights, ``(N,)`` float64, from all of them, ``(K, N)``; see :func:`pareto_k_of_tail`."""
    return pareto_k_of_tail(largest(log_weights.double(), len(log_weights)))


def pareto_k_of_tail(log_weights: Tensor) -> Tensor:
    r"""Shape k of the generalized Pareto distribution that fits the M largest weights' excesses over the next one.

    .. math:: p(e) = \frac1\sigma \Big(1 + k \frac e\sigma\Big)^{-1/k-1}, \qquad e_i = w_i - w_{M+1}

    Moments of the weights from 1/k on are infinite: k < 1/2 means that they have a variance. Above 0.7 the number of
    particles that an estimate needs is out of reach. The fit is the posterior mean of Zhang and Stephens under their
    empirical prior, drawn towards 1/2 as if by ten further weights: :math:`\hat k = (M k + 5) / (M + 10)`.

    Args:
        log_weights: the M + 1 largest of each datum, ``(M + 1, N)``, nats, the largest first.

    Returns:
        ``(N,)`` float64. NaN where there is no tail to fit: fewer than five weights exceed the smallest one (too few
        particles, or most weights are equal), the weights are all equal to within rounding (1e-4 nats; as where the
        guide is the posterior), or they are not numbers.

    Source: Zhang & Stephens 2009, doi:10.1198/tech.2009.08017; Vehtari et al. 2024, arXiv:1507.02646, section 3.
    """
    log_weights = log_weights.double()
    relative = log_weights - log_weights[:1]  # (M + 1, N), the largest 0; NaN if it is infinite
    cutoff = relative[-1]
    excess = (relative.exp() - cutoff.exp())[:-1].flip(0)  # (M, N), ascending
    excess = torch.where(cutoff < -ROUNDING, excess, 0.0)  # also where it is NaN
    if len(excess) < FEWEST:
        return torch.full_like(cutoff, torch.nan)
    rows = max(1, ELEMENTS // (len(excess) * _grid_size(len(excess))))
    return torch.cat([_fit(part) for part in excess.T.split(rows)])


def _grid_size(m: int) -> int:
    return 30 + math.isqrt(m)


def _fit(excess: Tensor) -> Tensor:
    """k-hat ``(N,)`` of excesses ``(N, M)`` in ascending order; zeros (ties with the cutoff) are none of the tail."""
    m = excess.shape[1]
    count = (excess > 0).sum(1, keepdim=True)  # (N, 1): M, but for ties
    size = count.double().sqrt().floor() + 30  # (N, 1), points of the grid
    point = torch.arange(1, _grid_size(m) + 1, dtype=excess.dtype, device=excess.device)  # (J,)
    quarter = m - count + (count / 4 + 0.5).floor().long() - 1  # (N, 1), the place of the lowest quarter's end
    scale = excess.gather(1, quarter.clamp(0, m - 1))  # (N, 1)
    b = (1 - (size / (point - 0.5)).sqrt()) / (3 * scale) + 1 / excess[:, -1:]  # (N, J): values of -k / sigma
    k = (-b[..., None] * excess[:, None]).log1p().sum(2) / count  # (N, J): zeros add nothing
    profile = count * ((-b / k).log() - k - 1)  # (N, J), log-likelihood
    profile = profile.where((point <= size) & (b != 0), -torch.inf)
    b = b.where(point <= size, 0.0)
    best = (b * profile.softmax(1)).sum(1, keepdim=True)  # (N, 1), posterior mean
    k = (-best * excess).log1p().sum(1) / count[:, 0]
    k = (count[:, 0] * k + 5) / (count[:, 0] + 10)
    return k.where(count[:, 0] >= FEWEST, torch.nan)
