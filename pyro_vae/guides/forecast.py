"""The guide of forecasts: which way and how far, given the trajectories and the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.errors import InputError, below_one
from pyro_vae.guides.field import FieldEncoder
from pyro_vae.models.forecast import ForecastVAE
from pyro_vae.networks import diagonal_normal
from pyro_vae.programs.handlers import penalty

SMALLEST = 1e-6  # of a squared length, below which a cell has no direction


class ForecastGuide(PyroModule):
    r"""q(z_d, z_m | x, image) = N(mu(x, image), diag sigma(x, image)^2), from both as channels of one grid.

    In training alone, the losses of the paper can be added to the negative bound, penalties that are no part of any
    density: with y the coefficients of a cell, a sum over cells,

    .. math:: w_d \left| \frac{y}{|y|} - d \right|^2 + w_m \, (|y| - m)^2

    Args:
        model: the generative model, whose sizes are taken.
        channels: of the features at every scale, finest first; if the model's latents are local, the first are those at
            every cell.
        context_dim: of the vector, or of those of the cells, that the moments are linear in.
        num_blocks: residual blocks at every scale.
        activation: nonlinearity, by name.
        batch_norm: normalize inside the blocks.
        min_scale: lower bound of sigma.
        direction_penalty, magnitude_penalty: w_d and w_m, not negative; 0: none.

    Raises:
        InputError: for sizes that are not positive, data too small for so many scales, an unknown activation, negative
            weights.

    Source: Walker et al. 2016, arXiv:1606.07873.

    Example:
        >>> import pyro_vae, torch
        >>> sizes = {"channels": (6, 8), "context_dim": 10}
        >>> model = pyro_vae.models.ForecastVAE((10, 4, 4), (3, 16, 16), **sizes)
        >>> guide = pyro_vae.guides.ForecastGuide(model, **sizes)
        >>> batch = {"x": torch.randn(5, 10, 4, 4), "image": torch.rand(5, 3, 16, 16)}
        >>> {name: tuple(z.shape) for name, z in pyro_vae.encode(model, guide, batch).items()}
        {'direction': (5, 8), 'magnitude': (5, 2)}
    """

    def __init__(
        self,
        model: ForecastVAE,
        channels: Sequence[int] = (64, 96),
        context_dim: int = 128,
        num_blocks: int = 1,
        activation: str = "relu",
        batch_norm: bool = False,
        min_scale: float = 1e-4,
        direction_penalty: float = 0.0,
        magnitude_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        self.context, self.dims, self.min_scale = model.context, model.dims, below_one("min_scale", min_scale)
        self.weights = {"direction": direction_penalty, "magnitude": magnitude_penalty}
        for name, weight in self.weights.items():
            if not (weight >= 0 and math.isfinite(weight)):
                raise InputError(f"{name}_penalty: must be 0 or a positive number, got {weight}")
        self.model = model if any(self.weights.values()) else None
        how = (channels, context_dim, num_blocks, activation, batch_norm)
        self.encoder = FieldEncoder(model.data_shape, model.image_shape, *how, local=model.local)
        self.moments = nn.Linear(context_dim, 2 * sum(self.dims))

    def forward(self, x: Tensor, image: Tensor) -> None:
        """Sample z_d and z_m given trajectories ``x`` (batch, 2 T, h, w) and their images."""
        moments = self.moments(self.encoder(x, image))  # (batch, 2 * dims), local: (batch, h, w, 2 * dims)
        rank = moments.dim() - 1
        directions, magnitudes = moments.split([2 * dim for dim in self.dims], -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            z_d = pyro.sample("direction", diagonal_normal(directions, self.min_scale).to_event(rank))
            z_m = pyro.sample("magnitude", diagonal_normal(magnitudes, self.min_scale).to_event(rank))
            if self.model is not None:
                self._penalize(x, image, z_d, z_m)

    def _penalize(self, x: Tensor, image: Tensor, z_d: Tensor, z_m: Tensor) -> None:
        d, m, _ = self.model.field(z_d, z_m, self.model.encoder.grids(image))  # (..., 2 c, h, w), (..., 1, h, w)
        y = self.model.transform(x)
        size = (y.square().sum(-3, keepdim=True) + SMALLEST).sqrt()  # (batch, 1, h, w)
        losses = {"direction": (y / size - d).square(), "magnitude": (size - m).square()}
        for name, weight in self.weights.items():
            if weight:
                penalty(f"{name}_penalty", weight * losses[name].sum((-3, -2, -1)))
