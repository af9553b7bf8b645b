"""A mixture of Gaussians given a context, as prior over real latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.distributions import DiagonalMixture
from pyro_vae.errors import InputError, below_one, positive
from pyro_vae.networks import MLP, Condition, OneHot, diagonal_normal
from pyro_vae.priors.latent import LatentPrior
from pyro_vae.priors.mixture import components_at

NEAR = 0.1  # of a network's first weights: how much components depend on the context where they start


class MixtureDensityPrior(LatentPrior):
    r"""p(z | y) = sum_k w_k(y) N(z; mu_k(y), diag sigma_k(y)^2): a mixture density network of the features c(y).

    Args:
        shape: see :class:`LatentPrior`.
        condition: what y is, and its features c(y), ``(batch, condition.dim)``; :class:`~pyro_vae.networks.OneHot` of
            10 classes if not given. If it has places, such as :class:`~pyro_vae.networks.ContextPlaces`, z is a grid,
            shape = ``(*places, ...)``, and what is at each place, given y, is a mixture of its own.
        num_components: K.
        hidden_dims: widths of the network's layers; none: linear, which for a class label is a table.
        activation: its nonlinearity, by name.
        argument: name of the context.
        min_scale: lower bound of sigma.
        shared: mu and sigma are parameters, the same for every y, which says the weights w alone: what z stands for is
            then the same everywhere, and y says how probable it is.

    Raises:
        InputError: for no component, a min_scale that is not in [0, 1), no shape, or one that does not begin with the
            condition's places; when it is used, without y.

    Source: Bishop 1994, "Mixture density networks", Aston University, NCRG/94/004.

    Example:
        >>> import pyro_vae, torch
        >>> prior = pyro_vae.priors.MixtureDensityPrior((2,), pyro_vae.networks.OneHot(3), num_components=5)
        >>> prior(y=torch.tensor([0, 2])).sample().shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        shape: Sequence[int] | None = None,
        condition: Condition | None = None,
        num_components: int = 10,
        hidden_dims: Sequence[int] = (64,),
        activation: str = "tanh",
        argument: str = "y",
        min_scale: float = 1e-3,
        shared: bool = False,
    ) -> None:
        super().__init__(shape)
        k = positive("MixtureDensityPrior: num_components", num_components)
        self.condition = condition if condition is not None else OneHot(10)
        self.argument, self.context = argument, {argument: self.condition.accepts}
        self.min_scale = below_one("min_scale", min_scale)
        self.places = self.condition.places
        self.each = self.shape[len(self.places) :]  # the event at a place
        if not self.each or self.shape[: len(self.places)] != self.places:
            raise InputError(
                f"MixtureDensityPrior: shape must begin with the places of its condition, {self.places}, and go on "
                f"with the shape at each; got {self.shape}"
            )
        size = math.prod(self.each)
        self.sizes = [k, 0 if shared else 2 * k * size]
        self.network = MLP(self.condition.dim, hidden_dims, sum(self.sizes), activation)
        start = torch.zeros(k, 2, size)
        start[:, 0].normal_(std=0.5)  # components start apart
        self.moments = nn.Parameter(start.flatten()) if shared else None
        if not shared:
            with torch.no_grad():
                self.network.out.bias[k:].view(k, 2, size)[:, 0].copy_(start[:, 0])

    @torch.no_grad()
    def start_at(self, z: Tensor) -> None:
        """Start where draws ``(N, *shape)`` are, all but the same for every y."""
        k = self.sizes[0]
        values = z.reshape(-1, math.prod(self.each))  # at places: of all of them
        moments, logits = components_at(values, k, self.min_scale)
        out = self.network.out
        out.bias[:k].copy_(logits)
        if self.moments is not None:
            self.moments.copy_(moments.flatten())
        else:
            out.weight[k:].mul_(NEAR)
            out.bias[k:].copy_(moments.flatten())

    def forward(self, **context: Tensor) -> TorchDistribution:
        """p(z | y), of the batch shape of y.

        Raises:
            InputError: without y.
        """
        y = context.get(self.argument)
        if y is None:
            raise InputError(f"the MixtureDensityPrior needs '{self.argument}': {self.condition.accepts.what}")
        logits, moments = self.network(self.condition(y)).split(self.sizes, -1)  # (batch, *places, K), (…, K * 2 D)
        if self.moments is not None:
            moments = self.moments.expand(*logits.shape[:-1], -1)
        normal = diagonal_normal(moments.unflatten(-1, (self.sizes[0], -1)), self.min_scale)  # (batch, *places, K, D)
        loc, scale = (t.unflatten(-1, self.each) for t in (normal.loc, normal.scale))
        mixture = DiagonalMixture(logits.log_softmax(-1), loc, scale, len(self.each))
        return mixture.to_event(len(self.places)) if self.places else mixture
