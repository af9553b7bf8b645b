"""The guide of flows, inverse autoregressive ones or splines, for any model with real latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyro.distributions as dist
from pyro.distributions.transforms import AffineTransform, ConditionalAffineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, arange, nn, ones_like, zeros_like

from pyro_vae.errors import positive, unknown
from pyro_vae.guides.base import EncoderGuide
from pyro_vae.networks.flows import Bend, make_flow


class FlowGuide(EncoderGuide):
    r"""q(z_i | x) is N(mu_i(x), diag sigma_i(x)^2) bent by a flow, one per latent site of the model.

    - ``"iaf"``, inverse autoregressive:

      .. math:: z^{(t)} = m_t(z^{(t-1)}_{<}, h) + s_t(z^{(t-1)}_{<}, h) \odot z^{(t-1)}, \qquad
          h = \mathrm{encoder}(x)

      for the layers t, each in the reverse order of the one before. A draw and its density take one pass. The inverse
      is known, and takes one pass a number: densities of other z (``ais``) are slower, and not recorded. A site of one
      number stays a Gaussian.
    - ``"spline"``, of zuko (``pip install 'pyro-vae[flows]'``): z = mu + sigma f(epsilon; h), epsilon ~ N(0, I), where
      each layer of f bends one half of the numbers by monotone rational-quadratic splines, given the other half and h.
      A draw takes one pass, and so does the density of any z, which can be recorded.

    Args:
        model, hidden_dims, activation, min_scale: see :class:`GaussianGuide`.
        encoder: as there, to ``context_dim`` more features for every site.
        num_layers: of each flow.
        flow_dim: width of the hidden layer of its networks.
        context_dim: size of h, which they are given.
        flow: "iaf" or "spline".
        bins: of each spline.

    Raises:
        InputError: as :class:`GaussianGuide`; for sizes that are not positive integers, an unknown flow, or splines
            without zuko.

    Source: Kingma et al. 2016, arXiv:1606.04934 (iaf); Durkan et al. 2019, arXiv:1906.04032 (spline).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.FlowGuide(model, num_layers=2, flow_dim=8, hidden_dims=(16,), flow="spline")
        >>> pyro_vae.encode(model, guide, torch.ones(5, 1, 8, 8))["z"].shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        num_layers: int = 2,
        flow_dim: int = 64,
        context_dim: int = 32,
        encoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        min_scale: float = 1e-4,
        flow: Literal["iaf", "spline"] = "iaf",
        bins: int = 8,
    ) -> None:
        for name, value in (("num_layers", num_layers), ("flow_dim", flow_dim), ("context_dim", context_dim)):
            positive(name, value)
        if flow not in ("iaf", "spline"):
            raise unknown("flow", flow, ("iaf", "spline"))
        super().__init__(model, encoder, hidden_dims, activation, min_scale, lambda size: context_dim)
        self.flow = flow
        self.flows = nn.ModuleList(
            make_flow("spline_coupling", size, context_dim, num_layers, [flow_dim], bins)
            if flow == "spline"
            else nn.ModuleList(
                _layer(size, context_dim, flow_dim, backwards=bool(i % 2)) for i in range(num_layers if size > 1 else 0)
            )
            for size in self.sizes.values()
        )

    def posterior(self, name: str, normal: dist.Normal, features: Tensor) -> Any:
        """The bent Gaussian of a site's numbers."""
        layers: Any = self.flows[list(self.sizes).index(name)]
        if self.flow == "spline":
            noise = dist.Normal(zeros_like(normal.loc), ones_like(normal.scale)).to_event(1)
            moments = AffineTransform(normal.loc, normal.scale, event_dim=1, cache_size=1)
            return dist.TransformedDistribution(noise, [Bend(layers(features)), moments])
        base = normal.to_event(1)
        return dist.TransformedDistribution(base, [f.condition(features) for f in layers]) if len(layers) else base


def _layer(size: int, context_dim: int, hidden_dim: int, *, backwards: bool) -> ConditionalAffineAutoregressive:
    order = arange(size).flip(0) if backwards else arange(size)
    network = ConditionalAutoRegressiveNN(size, context_dim, [max(hidden_dim, size)], permutation=order)
    return ConditionalAffineAutoregressive(network)
