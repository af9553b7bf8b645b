"""A swiss roll of narrow Gaussians, a stretch of it a class, as prior over two latents."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import above_zero, positive
from pyro_vae.priors.class_mixture import ClassMixturePrior

NODES = 32  # of the quadrature over a piece of the curve


class SwissRollPrior(ClassMixturePrior):
    r"""p(z | y = k): a mixture of narrow Gaussians along the k-th stretch of a spiral; z has two numbers.

    The spiral is z(u) = 3 sqrt(u) (cos, sin)(4 pi sqrt(u)), and class k has u ~ U[k / C, (k + 1) / C]. A curve has no
    density in the plane. Therefore the prior is not the curve but a mixture: each stretch is cut into pieces of equal
    shares of u, and each piece is a Gaussian with the mean and covariance of z(u) on the piece, plus thickness^2 I.
    Mean and covariance of z, and of z given y, are those of the curve with noise of that standard deviation around it.

    Without y, and where it is -1, p(z) is the mixture of all pieces, equally weighted.

    Args:
        num_classes: C.
        thickness: standard deviation of the noise around the curve; its turns are 1.5 apart.
        num_components: pieces of a class. Of the roll's length, 19.4, 200 in all have about 0.1 each: far fewer, at
            this thickness, show as beads.

    Raises:
        InputError: for no class, no piece, or a thickness that is not positive.

    Source: Makhzani et al. 2015, arXiv:1511.05644, figure 4b (the curve).

    Example:
        >>> import pyro_vae, torch
        >>> prior = pyro_vae.priors.SwissRollPrior(num_classes=10, thickness=0.1)
        >>> prior(y=torch.tensor([0, 9, -1])).sample().shape
        torch.Size([3, 2])
    """

    def __init__(self, num_classes: int = 10, thickness: float = 0.1, num_components: int = 20) -> None:
        count = positive("SwissRollPrior: num_classes", num_classes)
        pieces = positive("SwissRollPrior: num_components", num_components)
        noise = above_zero("SwissRollPrior: thickness", thickness)
        nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(NODES))
        start = torch.arange(count * pieces, dtype=torch.float64)[:, None]
        ends = [((start + end) / (count * pieces)).sqrt() for end in (0, 1)]
        s = ends[0] + (ends[1] - ends[0]) * (nodes + 1) / 2  # sqrt(u), in which the curve is smooth at the origin too
        share = weights * s / (weights * s).sum(-1, keepdim=True)  # du = 2 s ds
        z = spiral(s.square())  # (pieces in all, nodes, 2)
        mean = (share[..., None] * z).sum(1)
        away = z - mean[:, None]
        covariance = (share[..., None, None] * away[..., None] * away[..., None, :]).sum(1)
        lower = torch.linalg.cholesky(covariance + noise**2 * torch.eye(2, dtype=torch.float64))
        classes = torch.arange(count).repeat_interleave(pieces)
        super().__init__(mean.tolist(), lower.tolist(), classes.tolist())


def spiral(u: Tensor) -> Tensor:
    """The curve's points ``(..., 2)`` at u ``(...)`` in [0, 1]."""
    s = u.sqrt()
    angle = 4 * math.pi * s
    return torch.stack([3 * s * angle.cos(), 3 * s * angle.sin()], -1)
