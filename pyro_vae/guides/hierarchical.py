"""The bottom-up guide of hierarchical models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.guides.base import data_and_latent_shapes, vectors_bottom_up
from pyro_vae.models.hierarchical import check_layers
from pyro_vae.networks.layers import check_event_shape
from pyro_vae.networks.mlp import GaussianMLP


class HierarchicalGuide(PyroModule):
    r"""q(z | x) = q(z_1 | x) q(z_2 | z_1) … q(z_L | z_{L-1}), each a Gaussian by a network of its own.

    Args:
        model: the generative program; its latent sites, in the reverse of the order in which it draws them, are
            z_1, …, z_L (vectors of reals).
        hidden_dims: width of the layers of q(z_1 | x), q(z_2 | z_1), ….
        num_hidden: layers in each of these networks (0: linear maps).
        activation: nonlinearity, by name.
        batch_norm: normalize every layer, the heads included.

    Raises:
        InputError: if the model's latents are not real vectors in the data plate, or not as many as hidden_dims.

    Source: Burda et al. 2016, arXiv:1509.00519.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.HierarchicalVAE((1, 8, 8), latent_dims=(4, 2), hidden_dims=(16, 8))
        >>> guide = pyro_vae.guides.HierarchicalGuide(model, hidden_dims=(16, 8))
        >>> {name: tuple(z.shape) for name, z in pyro_vae.encode(model, guide, torch.ones(5, 1, 8, 8)).items()}
        {'z1': (5, 4), 'z2': (5, 2)}
    """

    def __init__(
        self,
        model: Callable[..., Any],
        hidden_dims: Sequence[int] = (512, 256, 128, 64, 32),
        num_hidden: int = 2,
        activation: str = "leaky_relu_tenth",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.data_shape, latents = data_and_latent_shapes(model)
        sizes = vectors_bottom_up(latents)  # z1, …, zL
        check_layers(list(sizes.values()), hidden_dims)
        self.names = list(sizes)
        inputs = [math.prod(self.data_shape), *sizes.values()]
        self.conditionals = nn.ModuleList(
            GaussianMLP(below, [width] * num_hidden, size, activation, batch_norm)
            for below, width, size in zip(inputs[:-1], hidden_dims, sizes.values(), strict=True)
        )

    def forward(self, x: Tensor) -> None:
        """Sample z_1, …, z_L given data ``x``, ``(batch, *data_shape)``."""
        check_event_shape(x, self.data_shape, "guide")
        z = x.flatten(1)  # (batch, pixels)
        with pyro.plate("data", x.shape[0], dim=-1):
            for name, conditional in zip(self.names, self.conditionals, strict=True):
                z = pyro.sample(name, conditional(z).to_event(1))  # (..., batch, dim of z_i)
