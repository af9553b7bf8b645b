"""A pinwheel of Gaussians, one a class, as prior over two latents."""

from __future__ import annotations

import math

import torch

from pyro_vae.errors import above_zero, not_negative, positive
from pyro_vae.priors.class_mixture import ClassMixturePrior


class PinwheelPrior(ClassMixturePrior):
    r"""p(z | y = k): (a, b) ~ N((r, 0), diag(s_r^2, s_t^2)) turned by 2 pi k / C about the origin; z has two numbers.

    Without y, and where it is -1, p(z) is the mixture of all C of them, equally weighted.

    Args:
        num_classes: C.
        radius: r, the distance of the means from the origin.
        radial_scale, tangential_scale: s_r and s_t, standard deviations along the arm and across it.

    Raises:
        InputError: for no class, a radius below 0, or a scale that is not positive.

    Source: Makhzani et al. 2015, arXiv:1511.05644, figure 4a (a mixture of ten Gaussians), in the sizes of later
    implementations.

    Example:
        >>> import pyro_vae, torch
        >>> prior = pyro_vae.priors.PinwheelPrior(num_classes=10)
        >>> prior(y=torch.tensor([0, 9, -1])).sample().shape
        torch.Size([3, 2])
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, prior=prior)  # of the whole mixture
        >>> pyro_vae.sample(model, 5)["z"].shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        num_classes: int = 10,
        radius: float = 1.4,
        radial_scale: float = 0.5,
        tangential_scale: float = 0.05,
    ) -> None:
        count = positive("PinwheelPrior: num_classes", num_classes)
        radius = not_negative("PinwheelPrior: radius", radius)
        scales = torch.tensor(
            [
                above_zero("PinwheelPrior: radial_scale", radial_scale),
                above_zero("PinwheelPrior: tangential_scale", tangential_scale),
            ],
            dtype=torch.float64,
        )
        angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(count, 2, 2)
        covariance = turn @ scales.square().diag() @ turn.mT
        lower = torch.linalg.cholesky(covariance)
        super().__init__((radius * turn[:, :, 0]).tolist(), lower.tolist(), range(count))
