"""A normalizing flow as prior over real latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform
from torch.distributions.transforms import ReshapeTransform

from pyro_vae.errors import InputError
from pyro_vae.networks.flows import Bend, make_flow
from pyro_vae.priors.latent import LatentPrior


class FlowPrior(LatentPrior):
    r"""z = f(epsilon), epsilon ~ N(0, I), with a learned invertible f.

    .. math:: \log p(z) = \log N(f^{-1}(z); 0, I) + \log \left| \det \frac{d f^{-1}(z)}{dz} \right|

    The flows of zuko are used the way round in which a density takes one pass; of the autoregressive ones a draw takes
    one pass a number.

    Args:
        shape: see :class:`LatentPrior`.
        transforms: f, as modules of ``pyro.distributions.transforms``, the first one first, each with an inverse. None:
            one of zuko's by ``kind`` (``pip install 'pyro-vae[flows]'``).
        kind: "spline" (autoregressive rational-quadratic splines), "spline_coupling", "maf" or "realnvp".
        num_layers: of f.
        hidden_dims: widths of each layer's network.
        bins: of a spline.

    Raises:
        InputError: for an unknown kind, sizes that are not positive, transforms that have no inverse or take vectors of
            another size, or without zuko.

    Source: Durkan et al. 2019, arXiv:1906.04032 (splines); Chen et al. 2017, arXiv:1611.02731 (as a prior).

    Example:
        >>> import pyro_vae
        >>> prior = pyro_vae.priors.FlowPrior((2,), num_layers=2, hidden_dims=(16,))
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, prior=prior)
        >>> pyro_vae.sample(model, 5)["z"].shape
        torch.Size([5, 2])
    """

    origin: Tensor

    def __init__(
        self,
        shape: Sequence[int] | None = None,
        transforms: Sequence[nn.Module] | None = None,
        kind: Literal["spline", "spline_coupling", "maf", "realnvp"] = "spline",
        num_layers: int = 3,
        hidden_dims: Sequence[int] = (64, 64),
        bins: int = 8,
    ) -> None:
        super().__init__(shape)
        self.transforms = None if transforms is None else nn.ModuleList(transforms)
        self.flow = make_flow(kind, self.size, 0, num_layers, hidden_dims, bins) if transforms is None else None
        self.register_buffer("origin", torch.zeros(self.size), persistent=False)
        if self.transforms is not None:
            self._check(self.transforms)

    def _check(self, transforms: nn.ModuleList) -> None:
        names = ", ".join(type(t).__name__ for t in transforms)
        if not transforms or not all(isinstance(t, Transform) and t.bijective for t in transforms):
            raise InputError(
                f"FlowPrior: transforms must be invertible ones of pyro.distributions, got {names or '[]'}"
            )
        try:
            with torch.no_grad():
                shape = self().log_prob(torch.zeros(2, *self.shape)).shape
        except (NotImplementedError, KeyError) as error:
            raise InputError(
                f"FlowPrior: the density of a given z needs the inverse of every transform, and one of {names} has "
                "none (planar and radial flows have none; affine_coupling, spline and spline_coupling have)"
            ) from error
        except RuntimeError as error:
            raise InputError(f"FlowPrior: {names} do not take vectors of size {self.size}: {error}") from error
        if shape != (2,):
            raise InputError(f"FlowPrior: {names} have no density of vectors of size {self.size}")

    def forward(self, **context: Tensor) -> dist.TransformedDistribution:
        """p(z); the context does not matter."""
        base = dist.Normal(self.origin, torch.ones_like(self.origin)).to_event(1)
        if self.flow is not None:
            layers: list[Any] = [Bend(self.flow(None), backwards=True)]
        else:
            layers = list(self.transforms or ())
            for transform in layers:
                transform._cached_x_y = None, None  # of other weights, maybe
        if len(self.shape) > 1:
            layers.append(ReshapeTransform((self.size,), self.shape))
        return dist.TransformedDistribution(base, layers)
