"""A mixture of Gaussians as prior over real latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.distributions import DiagonalMixture
from pyro_vae.errors import below_one, positive
from pyro_vae.networks import diagonal_normal
from pyro_vae.networks.k_means import k_means, nearest_codes
from pyro_vae.priors.latent import LatentPrior

SPREAD = 0.7  # standard deviation of each component at the start
LEAST = 0.01  # of all values' deviation: that of a component at values that are all but the same
SEARCHED = 2**26  # bytes, of distances to components


def components_at(values: Tensor, num_components: int, min_scale: float) -> tuple[Tensor, Tensor]:
    """Gaussians where values are, by k-means: a mixture that starts there has no component that nothing is near to.

    Args:
        values: ``(N, D)``.
        num_components: K.
        min_scale: lower bound of sigma.

    Returns:
        (mu, s) ``(K, 2 D)``, of which :func:`~pyro_vae.networks.diagonal_normal` makes means and scales; and the log of
        the shares of values that are nearest to each, ``(K,)``.
    """
    means, counts = k_means(values, num_components, SEARCHED)
    nearest = nearest_codes(values, means, SEARCHED)
    square = torch.zeros_like(means).index_add_(0, nearest, (values - means[nearest]).square())
    everywhere = values.std(0, correction=0).clamp(min=min_scale + 1e-6)
    number = torch.bincount(nearest, minlength=num_components)[:, None]
    scale = torch.where(number > 1, (square / number.clamp(min=1)).sqrt(), everywhere)
    scale = torch.maximum(scale, (LEAST * everywhere).clamp(min=2 * min_scale))
    raw = (scale - min_scale).expm1().log() - math.log(math.expm1(1 - min_scale))
    return torch.cat([means, raw], -1), ((counts + 1) / (counts + 1).sum()).log()


class MixturePrior(LatentPrior):
    r"""p(z) = sum_k w_k N(z; mu_k, diag sigma_k^2), with weights, means and scales learned.

    It starts as spread as N(0, I): all scales are 0.7, the means are drawn with variance 1 - 0.7^2 in each dimension,
    and the weights are equal.

    Args:
        shape: see :class:`LatentPrior`.
        num_components: K.
        min_scale: lower bound of sigma.

    Raises:
        InputError: for no component, a min_scale that is not in (0, 1), or no shape.

    Source: Dilokthanakul et al. 2016, arXiv:1611.02648; Tomczak & Welling 2018, arXiv:1705.07120 (as a baseline).

    Example:
        >>> import pyro_vae
        >>> prior = pyro_vae.priors.MixturePrior((2,), num_components=10)
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, prior=prior)
        >>> pyro_vae.sample(model, 5)["z"].shape
        torch.Size([5, 2])
    """

    def __init__(self, shape: Sequence[int] | None = None, num_components: int = 100, min_scale: float = 1e-3) -> None:
        super().__init__(shape)
        k = positive("MixturePrior: num_components", num_components)
        self.min_scale = below_one("min_scale", min_scale)
        means = torch.randn(k, self.size) * math.sqrt(1 - SPREAD**2)
        raw = math.log(math.expm1(SPREAD * (1 - min_scale)) / math.expm1(1 - min_scale))  # of which scales are made
        self.moments = nn.Parameter(torch.cat([means, torch.full_like(means, raw)], -1))  # (K, 2 D)
        self.logits = nn.Parameter(torch.zeros(k))

    @torch.no_grad()
    def start_at(self, z: Tensor) -> None:
        """Start where draws ``(N, *shape)`` are."""
        moments, logits = components_at(z.flatten(1), len(self.logits), self.min_scale)
        self.moments.copy_(moments)
        self.logits.copy_(logits)

    def forward(self, **context: Tensor) -> DiagonalMixture:
        """p(z); the context does not matter."""
        normal = diagonal_normal(self.moments, self.min_scale)  # (K, D)
        loc, scale = (t.unflatten(-1, self.shape) for t in (normal.loc, normal.scale))
        return DiagonalMixture(self.logits.log_softmax(-1), loc, scale, len(self.shape))
