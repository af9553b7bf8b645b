"""How far reconstructions are from the data in the features of a frozen network, and in pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.data import DataLike
from pyro_vae.errors import InputError, positive
from pyro_vae.evaluation.generate import reconstruct
from pyro_vae.evaluation.results import Result, mean_and_error, not_finite
from pyro_vae.programs.context import X
from pyro_vae.programs.image_features import FrozenFeatures
from pyro_vae.programs.session import as_split
from pyro_vae.runtime import derived_seed

IMAGE_DIMS = 3


@dataclass
class FeatureError(Result):
    """Squared errors of reconstructions, means over the numbers of a layer, or over pixels.

    Attributes:
        features: by layer, ``(num_data,)`` each, in squared units of the features.
        pixels: ``(num_data,)``, in squared units of the data.
        network: the features' class.
        split: the name of the data.
    """

    features: dict[str, Tensor]
    pixels: Tensor
    network: str
    split: str = "data"

    @property
    def rows(self) -> dict[str, str]:
        """Means over data and their standard errors."""
        errors = {f"squared error of {layer} ({self.network})": value for layer, value in self.features.items()}
        found = {"squared error of pixels": self.pixels, **errors}
        return {label: "{:.4g} +- {:.2g}".format(*mean_and_error(value)) for label, value in found.items()}

    def arrays(self) -> dict[str, Tensor]:
        """The errors of each datum, ``(num_data,)`` each."""
        return {"pixels": self.pixels} | {f"features.{layer}": value for layer, value in self.features.items()}

    @property
    def warnings(self) -> list[str]:
        """Which data have errors that are not finite."""
        found = not_finite(self.pixels, "squared error of pixels", "")
        for layer, value in self.features.items():
            found += not_finite(value, f"squared error of {layer}", "")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values."""
        means = {layer: mean_and_error(value) for layer, value in self.features.items()}
        pixels = mean_and_error(self.pixels)
        return {
            "pixels": pixels[0],
            "pixels_standard_error": pixels[1],
            "features": {layer: mean for layer, (mean, _) in means.items()},
            "features_standard_error": {layer: error for layer, (_, error) in means.items()},
            "network": self.network,
            "num_data": len(self.pixels),
            "split": self.split,
            "warnings": self.warnings,
        }


def feature_error(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    features: nn.Module,
    *,
    site: str | None = None,
    batch_size: int = 100,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> FeatureError:
    r"""Mean squared differences between data and reconstructions, in pixels and in features.

    .. math:: \frac{1}{D_l} \lVert \phi_l(x) - \phi_l(\hat x) \rVert^2, \quad \hat x = E[x | z], \quad z \sim q(z | x)

    with one draw of z a datum. It tells nothing of what the model was trained for: pairs trained with and without
    features are measured alike, with the same network.

    Args:
        model, guide: the programs.
        data: images, as for :func:`~pyro_vae.evaluation.log_likelihood`.
        features: phi, as for :class:`~pyro_vae.objectives.Perceptual`; it is frozen.
        site: the data site; found, if None.
        batch_size: data reconstructed at once.
        seed: of the draws of z, which also depend on ``batch_size``.
        device: where the features are computed; the CPU, if None.

    Raises:
        InputError: for data that are no images, and as :func:`~pyro_vae.evaluation.generate.reconstruct`.

    Source: Hou et al. 2016, arXiv:1610.00291.

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.evaluation import feature_error
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> found = feature_error(model, guide, x, torch.nn.Conv2d(1, 4, 3))
        >>> found.pixels.shape, [*found.features]
        (torch.Size([20]), ['0'])
    """
    positive("batch_size", batch_size)
    split, phi = as_split(data, model, guide).fixed(), FrozenFeatures(features)
    if len(split.shape) != IMAGE_DIMS:
        raise InputError(f"features are of images (channels, height, width), and a datum has shape {split.shape}")
    place = torch.device(device or "cpu")
    phi.to(place)
    parts: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for i, batch in enumerate(split.batches(batch_size)):
            mean = reconstruct(model, guide, batch, seed=derived_seed(seed, "features", i), site=site).to(place)
            x = batch[X].to(place)
            if not mean.is_floating_point() or mean.shape != x.shape:
                raise InputError(f"a reconstruction has shape {tuple(mean.shape)} and type {mean.dtype}: no images")
            ours, theirs = phi(x), phi(mean)
            errors = {layer: _mean_square(theirs[layer] - ours[layer]) for layer in ours}
            for name, value in {"": _mean_square(mean - x), **errors}.items():
                parts.setdefault(name, []).append(value.cpu())
    found = {name: torch.cat(values) for name, values in parts.items()}
    return FeatureError(found, found.pop(""), phi.name, split.name)


def _mean_square(difference: Tensor) -> Tensor:
    """Means over all but the first dimension, float64."""
    return difference.double().square().flatten(1).mean(1)
