"""The ladder guide: bottom-up evidence merged into the model's own top-down conditionals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.errors import unknown
from pyro_vae.guides.base import data_and_latent_shapes, draw_top_down, gaussian, vectors_bottom_up
from pyro_vae.models.hierarchical import check_layers
from pyro_vae.networks.conv import ConvEncoder
from pyro_vae.networks.layers import FeatureNorm, check_event_shape
from pyro_vae.networks.layers import activation as make_activation
from pyro_vae.networks.mlp import GaussianHead, hidden_layers

Merge = Literal["precision", "residual"]


class LadderGuide(PyroModule):
    r"""q(z | x) = q(z_L | x) prod_i q(z_i | z_{i+1}, x), on an upward path d_1 = f_1(x), d_i = f_i(d_{i-1}).

    Each d_i gives a Gaussian (mu^_i, sigma^2_i). The top layer is q(z_L | x) = N(mu^_L, sigma^2_L); below, evidence
    meets the model's conditional p(z_i | z_{i+1}) = N(mu_p, sigma_p^2), by precision

    .. math:: 1/\sigma^2 = 1/\hat\sigma^2 + 1/\sigma_p^2, \quad \mu = \sigma^2(\hat\mu/\hat\sigma^2 + \mu_p/\sigma_p^2)

    or, in NVAE's residual form, q(z_i | .) = N(mu_p + mu^, (sigma_p sigma^)^2). The model's top-down networks are run
    for it, so they are shared by model and guide, and any model of real latent vectors can have a ladder.

    Args:
        model: the generative program; its latent sites, in the reverse of the order in which it draws them, are
            z_1, …, z_L (Gaussian vectors).
        hidden_dims: width of the layers of f_1, …, f_L.
        num_hidden: layers in each of them (0: every Gaussian is a linear map of x).
        channels: of strided convolutions between x and f_1, finest first; none: no convolutions.
        activation: nonlinearity, by name.
        batch_norm: normalize every dense layer, the heads included; convolutions are not normalized.
        merge: ``"precision"`` (ladder VAE) or ``"residual"`` (NVAE).

    Raises:
        InputError: if the model's latents are not Gaussian vectors in the data plate, or not as many as hidden_dims;
            for an unknown merge.

    Source: Sønderby et al. 2016, arXiv:1602.02282; Vahdat & Kautz 2020, arXiv:2007.03898 (residual).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.HierarchicalVAE((1, 8, 8), latent_dims=(4, 2), hidden_dims=(16, 8))
        >>> guide = pyro_vae.guides.LadderGuide(model, hidden_dims=(16, 8))
        >>> {name: tuple(z.shape) for name, z in pyro_vae.encode(model, guide, torch.ones(5, 1, 8, 8)).items()}
        {'z2': (5, 2), 'z1': (5, 4)}
    """

    def __init__(
        self,
        model: Callable[..., Any],
        hidden_dims: Sequence[int] = (512, 256, 128, 64, 32),
        num_hidden: int = 2,
        channels: Sequence[int] = (),
        activation: str = "leaky_relu_tenth",
        batch_norm: bool = False,
        merge: Merge = "precision",
    ) -> None:
        super().__init__()
        if merge not in MERGES:
            raise unknown("merge", merge, MERGES)
        self.data_shape, latents = data_and_latent_shapes(model)
        sizes = vectors_bottom_up(latents)  # z1, …, zL
        check_layers(list(sizes.values()), hidden_dims)
        self.names, self.merge, self.model = list(sizes), MERGES[merge], model
        self.bottom, bottom = first_map(self.data_shape, channels, hidden_dims[0], activation, batch_norm)
        widths = [bottom, *(hidden_dims if num_hidden else [bottom] * len(hidden_dims))]
        self.upward = nn.ModuleList(
            hidden_layers([before] + [width] * num_hidden, activation, batch_norm)
            for before, width in itertools.pairwise(widths)
        )
        self.heads = nn.ModuleList(
            GaussianHead(width, size, batch_norm) for width, size in zip(widths[1:], sizes.values(), strict=True)
        )

    def forward(self, x: Tensor, **context: Any) -> None:
        """Sample z_L, …, z_1 given data ``x``, ``(batch, *data_shape)``."""
        check_event_shape(x, self.data_shape, "guide")
        d, evidence = self.bottom(x), {}  # (batch, pixels or features)
        for name, layers, head in zip(self.names, self.upward, self.heads, strict=True):
            d = layers(d)  # (batch, width)
            evidence[name] = head(d)  # N (batch, dim of z_i)

        def posterior(name: str, p: Any, infer: dict[str, Any]) -> dist.Normal:
            return evidence[name] if name == self.names[-1] else self.merge(evidence[name], gaussian(name, p))

        draw_top_down(self.model, posterior, self.names, {"x": x, **context})


def first_map(
    data_shape: tuple[int, ...], channels: Sequence[int], width: int, activation: str, batch_norm: bool
) -> tuple[nn.Module, int]:
    """What makes a vector of a datum, and that vector's size: flattening, or convolutions and a dense layer."""
    if not channels:
        return nn.Flatten(), math.prod(data_shape)
    norm = [FeatureNorm(width)] if batch_norm else []
    convolutions = ConvEncoder(data_shape, channels, width, activation)
    return nn.Sequential(convolutions, *norm, make_activation(activation)), width


def by_precision(evidence: dist.Normal, p: dist.Normal) -> dist.Normal:
    """The normalized product of two Gaussians: N(evidence) N(p), elementwise."""
    ours, theirs = evidence.scale.square(), p.scale.square()
    both = ours + theirs
    return dist.Normal((evidence.loc * theirs + p.loc * ours) / both, (ours * theirs / both).sqrt())


def residual(evidence: dist.Normal, p: dist.Normal) -> dist.Normal:
    """N(mu_p + mu, (sigma_p sigma)^2): evidence relative to p, elementwise."""
    return dist.Normal(p.loc + evidence.loc, p.scale * evidence.scale)


MERGES: dict[str, Callable[[dist.Normal, dist.Normal], dist.Normal]] = {"precision": by_precision, "residual": residual}
