"""The diagonal Gaussian guide, for any model with real latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.errors import InputError
from pyro_vae.networks import make_encoder
from pyro_vae.program import Program, required_arguments


class GaussianGuide(PyroModule):
    r"""q(z | x) = prod_i N(z_i; mu_i(x), diag sigma_i(x)^2), one factor per latent site of the model.

    (mu, s) = encoder(x) and sigma = softplus(s) + min_scale, with s shifted so that sigma = 1 where the encoder
    gives 0. The model is run once to read its latent sites and their shapes; it is not kept.

    Args:
        model: the generative program; its latent sites must have real support and lie in the data plate.
        encoder: ``"mlp"``, ``"conv"``, or a module from ``(..., *data_shape)`` to ``(..., 2 * total latent size)``.
        hidden_dims: widths of the encoder's layers from x to z (conv: channels).
        activation: its nonlinearity, by name.
        min_scale: lower bound of sigma.
        data_site: the site, and the name of the argument, that the guide is conditioned on.

    Raises:
        InputError: if the model has no such data site, has no latent site, or has one that is not real-valued or
            not in the data plate.

    Source: Kingma & Welling 2014, arXiv:1312.6114.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        min_scale: float = 1e-4,
        data_site: str = "x",
    ) -> None:
        super().__init__()
        data_shape, latents = _sites_of(model, data_site)
        self.latent_shapes = latents
        self.min_scale = min_scale
        self.shift = math.log(math.expm1(1.0 - min_scale))  # softplus(shift) = 1 - min_scale
        size = sum(math.prod(shape) for shape in latents.values())
        self.encoder = make_encoder(encoder, data_shape, hidden_dims, 2 * size, activation)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sample every latent site given data ``x`` (batch, *data_shape)."""
        loc, raw = self.encoder(x).chunk(2, dim=-1)  # each (batch, total latent size)
        scale = softplus(raw + self.shift) + self.min_scale
        sizes = [math.prod(shape) for shape in self.latent_shapes.values()]
        samples = {}
        with pyro.plate("data", x.shape[0], dim=-1):
            for (name, shape), m, s in zip(
                self.latent_shapes.items(), loc.split(sizes, -1), scale.split(sizes, -1), strict=True
            ):
                event = m.shape[:-1] + shape  # (batch, *event shape of the site)
                normal = dist.Normal(m.reshape(event), s.reshape(event))
                samples[name] = pyro.sample(name, normal.to_event(len(shape)))
        return samples


def _sites_of(model: Callable[..., Any], data_site: str) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """Event shapes of the data site and of the latent sites, from one run of the model without data."""
    program = model if isinstance(model, Program) else Program(model)
    needed = required_arguments(program, data_site)
    if needed:
        raise InputError(
            f"the model needs {', '.join(needed)}, which a GaussianGuide does not look at: use the guide that belongs "
            "to the model, or write one with these arguments"
        )
    modes = [(module, module.training) for module in program.modules()]
    program.eval()  # one datum has no batch statistics
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        trace = prune_subsample_sites(poutine.trace(program).get_trace(num_samples=1))
    for module, mode in modes:
        module.training = mode
    sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not s["is_observed"]}
    if data_site not in sites:
        raise InputError(f"the model has no data site '{data_site}'; its sites are: {', '.join(sites)}")
    latents = {}
    for name, site in sites.items():
        if name == data_site:
            continue
        support = site["fn"].support
        if not _is_real(support):
            raise InputError(
                f"latent site '{name}' has support {support}, a Gaussian guide needs real values: "
                "write a guide of your own for it"
            )
        if not any(frame.dim == -1 for frame in site["cond_indep_stack"]):
            raise InputError(f"latent site '{name}' is outside the data plate at dim -1")
        latents[name] = tuple(site["fn"].event_shape)
    if not latents:
        raise InputError("the model has no latent site for a guide to sample")
    return tuple(sites[data_site]["fn"].event_shape), latents


def _is_real(support: Any) -> bool:
    while hasattr(support, "base_constraint"):  # independent dimensions, mixtures
        support = support.base_constraint
    return support in (dist.constraints.real, dist.constraints.real_vector)
