"""Maximum mean discrepancy: kernels, the squared distance of two samples, and matching by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_vae.errors import InputError, unknown
from pyro_vae.objectives.divergence import Divergence, Draws

Kernel = Callable[[Tensor], Tensor]  # of squared distances
FACTORS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the inverse multiquadratic's scales


def inverse_multiquadratic(size: int, variance: float | Tensor = 1.0, factors: Sequence[float] = FACTORS) -> Kernel:
    r"""k(a, b) = sum_s C_s / (C_s + |a - b|^2), C_s = 2 size variance s: a sum over scales s.

    2 size variance is the expected squared distance of two draws of a prior with that variance in each dimension.

    Args:
        size: dimensions of a and b.
        variance: of the prior, in each dimension.
        factors: s.

    Returns:
        the kernel, a function of the squared distance.

    Source: Tolstikhin et al. 2018, arXiv:1711.01558.
    """
    scales = [2.0 * size * variance * factor for factor in factors]

    def kernel(squared: Tensor) -> Tensor:
        total = scales[0] / (scales[0] + squared)
        for scale in scales[1:]:
            total = total + scale / (scale + squared)
        return total

    return kernel


def rbf(bandwidths: Sequence[float | Tensor]) -> Kernel:
    r"""k(a, b) = sum_s exp(-|a - b|^2 / (2 s^2)), a sum over bandwidths s.

    Args:
        bandwidths: s, in the units of a and b.

    Returns:
        the kernel, a function of the squared distance.

    Source: Gretton et al. 2012, A kernel two-sample test.
    """

    def kernel(squared: Tensor) -> Tensor:
        total = torch.exp(squared * (-0.5 / bandwidths[0] ** 2))
        for width in bandwidths[1:]:
            total = total + torch.exp(squared * (-0.5 / width**2))
        return total

    return kernel


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 of all pairs: ``(..., n, size)`` and ``(..., m, size)`` to ``(..., n, m)``."""
    with torch.autocast(a.device.type, enabled=False):  # differences of large numbers
        cross = a @ b.mT
    return (a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :] - 2 * cross).clamp(min=0.0)


def mmd_squared(a: Tensor, b: Tensor, kernel: Kernel, alike: Tensor | None = None) -> Tensor:
    r"""Unbiased estimate of the squared maximum mean discrepancy of two samples; it may be negative.

    .. math:: \frac{1}{n(n-1)} \sum_{i \ne j} k(a_i, a_j) + \frac{1}{m(m-1)} \sum_{i \ne j} k(b_i, b_j)
              - \frac{2}{n m} \sum_{i, j} k(a_i, b_j)

    Args:
        a: ``(..., n, size)``.
        b: ``(..., m, size)``.
        kernel: k, of squared distances.
        alike: ``(n, n)``, a second kernel's values between the data of a and b, datum by datum (n = m), by which k is
            multiplied: 1 where two have the same label and else 0 compares the joint distributions with the labels.

    Returns:
        ``(...)``.

    Raises:
        InputError: for samples of fewer than two.

    Source: Gretton et al. 2012, A kernel two-sample test (lemma 6).

    Example:
        >>> import torch
        >>> from pyro_vae.objectives.mmd import mmd_squared, rbf
        >>> a, b = torch.zeros(5, 2), torch.ones(5, 2)
        >>> round(mmd_squared(a, b, rbf([1.0])).item(), 4)  # 2 - 2 exp(-1)
        1.2642
    """
    n, m = a.shape[-2], b.shape[-2]
    if n < 2 or m < 2:
        raise InputError(f"MMD compares samples of two or more, got {n} and {m}: use larger batches")
    a, b = a.float() if a.dtype != torch.float64 else a, b.float() if b.dtype != torch.float64 else b
    within_a, within_b, between = (kernel(squared_distances(*pair)) for pair in ((a, a), (b, b), (a, b)))
    if alike is not None:
        within_a, within_b, between = within_a * alike, within_b * alike, between * alike
    own = [
        (k.sum((-2, -1)) - k.diagonal(dim1=-2, dim2=-1).sum(-1)) / (size * (size - 1))
        for k, size in ((within_a, n), (within_b, m))
    ]
    return own[0] + own[1] - 2 * between.mean((-2, -1))


class MMD(Divergence):
    r"""Matching by the squared maximum mean discrepancy of a batch's codes from as many draws of the prior.

    .. math:: D = \|E_{q(z)} k(z, \cdot) - E_{p(z)} k(z, \cdot)\|^2

    estimated without bias (:func:`mmd_squared`), so that it may be negative. No network is trained. With labels, codes
    and draws are compared for each label, by a kernel that is 0 between different ones.

    Args:
        kernel: ``"imq"``, sum_s C_s / (C_s + d^2), or ``"rbf"``, sum_s exp(-d^2 / C_s), with
            C_s = 2 size variance s.
        variance: of the prior in each dimension; None: that of the batch's draws of it.
        factors: s.

    Raises:
        InputError: for an unknown kernel, or factors or a variance that are not positive.

    Source: Tolstikhin et al. 2018, arXiv:1711.01558 (WAE-MMD); Zhao et al. 2017, arXiv:1706.02262 (InfoVAE).

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.objectives import MMD, Matching
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(40, 1, 8, 8) > 0.5).float()
        >>> objective = Matching(MMD(), weight=50.0)
        >>> result = pyro_vae.fit(model, guide, x, objective=objective, epochs=1, device="cpu", progress=False)
        >>> "train/divergence/mmd" in result.records[0]
        True
    """

    name, takes_labels, fewest_data = "mmd", True, 2

    def __init__(
        self,
        kernel: Literal["imq", "rbf"] = "imq",
        variance: float | None = None,
        factors: Sequence[float] = FACTORS,
    ) -> None:
        if kernel not in ("imq", "rbf"):
            raise unknown("kernel", kernel, ("imq", "rbf"))
        if not factors or not all(factor > 0 for factor in factors):
            raise InputError(f"MMD: factors must be positive numbers, got {factors}")
        if variance is not None and not variance > 0:
            raise InputError(f"MMD: variance must be positive, got {variance}")
        self.kernel, self.variance, self.factors = kernel, variance, list(factors)

    def kernel_of(self, draws: Draws) -> Kernel:
        """k, for draws of a prior."""
        size = draws.prior.shape[-1]
        variance: Any = self.variance
        if variance is None:
            variance = draws.prior.float().var((0, 1)).mean()
        if self.kernel == "imq":
            return inverse_multiquadratic(size, variance, self.factors)
        return rbf([(size * variance * factor) ** 0.5 for factor in self.factors])

    def value(self, draws: Draws, network: Any) -> Tensor:
        """The squared discrepancy, the mean over particles."""
        alike = None
        if draws.condition is not None:
            labels = draws.condition.float()
            alike = labels @ labels.mT
        return mmd_squared(draws.posterior, draws.prior, self.kernel_of(draws), alike).mean()
