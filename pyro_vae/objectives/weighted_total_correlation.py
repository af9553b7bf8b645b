"""Total correlation by weighted sums of the guide's densities over a batch."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.errors import InputError, unknown
from pyro_vae.objectives.divergence import Divergence, Draws, factorized


class WeightedTotalCorrelation(Divergence):
    r"""Total correlation of the aggregated posterior, its densities being weighted sums over the batch.

    .. math:: D = E_{q(z)} \Bigl[\log \hat q(z) - \sum_d \log \hat q(z_d)\Bigr], \quad
              \hat q(z_i) = \sum_{j=1}^{M} w_{ij}\, q(z_i | x_j)

    in nats, for M data of a batch of the N of training. No network is trained. Together with the per-datum KL of weight
    1 a weight of beta - 1 is the objective of beta-TCVAE.

    Args:
        weights: ``"weighted"``, w = 1 / (N M), for every j: what beta-TCVAE is trained with, too large by about
            (size - 1) log N, a constant without gradient where posteriors are far apart. ``"stratified"``, w = 1 / N
            for j = i and (N - 1) / (N (M - 1)) else, for which q-hat(z) has no bias; exact for M = N.

    Raises:
        InputError: for other weights.

    Source: Chen et al. 2018, arXiv:1802.04942 (section 4, appendix C).

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.objectives import Matching, WeightedTotalCorrelation
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(40, 1, 8, 8) > 0.5).float()
        >>> objective = Matching(WeightedTotalCorrelation(), weight=5.0, kl=1.0)  # beta-TCVAE, beta = 6
        >>> result = pyro_vae.fit(model, guide, x, objective=objective, epochs=1, device="cpu", progress=False)
        >>> "train/divergence/total_correlation" in result.records[0]
        True
    """

    name, fewest_data, takes_densities = "total_correlation", 2, True

    def __init__(self, weights: Literal["weighted", "stratified"] = "weighted") -> None:
        if weights not in ("weighted", "stratified"):
            raise unknown("weights", weights, ("weighted", "stratified"))
        self.weights = weights

    def check(self, draws: Draws) -> None:
        """There are two numbers or more, and the guide draws each by itself."""
        factorized(draws)
        for site in draws.sites:
            _units(draws, site)

    def value(self, draws: Draws, network: Any) -> Tensor:
        """The estimate, nats."""
        parts = torch.cat([_of_units(draws, site) for site in draws.sites], -1)  # (M, K, M, size): log q(z_i,d | x_j)
        m, n = parts.shape[2], float(draws.pair.num_data or draws.pair.full_size)
        if self.weights == "weighted":
            log_w = parts.new_full((1, 1, 1), -math.log(n * m))
        else:
            own = torch.eye(m, dtype=torch.bool, device=parts.device)[:, None, :]  # (M, 1, M)
            log_w = torch.where(own, -math.log(n), math.log((n - 1) / (n * (m - 1))))
        whole = (parts.sum(-1) + log_w).logsumexp(2)  # (M, K)
        units = (parts + log_w.unsqueeze(-1)).logsumexp(2)  # (M, K, size)
        return (whole - units.sum(-1)).mean()


def _units(draws: Draws, site: str) -> Any:
    """The guide's distribution at a site as one of single numbers, of batch shape ``([K, …,] M, *event)``.

    Raises:
        InputError: if its numbers are not drawn independently of each other.
    """
    fn = draws.pair.guide.nodes[site]["fn"]
    while isinstance(fn, Independent):
        fn = fn.base_dist
    if fn.event_shape or isinstance(fn, MaskedDistribution) or draws.pair.copies > 1:
        raise InputError(
            f"total correlation by minibatch weights needs a guide that draws the numbers of '{site}' independently of "
            f"each other, such as Normal(...).to_event(1), and it has {type(fn).__name__} of event shape "
            f"{tuple(fn.event_shape)}: take TotalCorrelation, which needs draws alone"
        )
    return fn


def _of_units(draws: Draws, site: str) -> Tensor:
    """log q of each number of z_i given each x_j, ``(N, K, M, size)``."""
    fn, value = _units(draws, site), draws.pair.guide.nodes[site]["value"]
    event = draws.pair.guide.nodes[site]["fn"].event_dim
    batch = value.dim() - event  # ([K, 1 for each plate between,] N, *event)
    n = value.shape[batch - 1]
    parts = fn.expand(value.shape).log_prob(value.movedim(batch - 1, 0).unsqueeze(batch))  # (N, [K, …,] M, *event)
    return parts.reshape(n, draws.pair.num_particles, n, -1)
