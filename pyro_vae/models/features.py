"""A variational autoencoder whose data are features of images: the density of a perceptual loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models.base import LatentPriorModel
from pyro_vae.networks import make_decoder
from pyro_vae.priors import LatentPrior
from pyro_vae.programs.image_features import FrozenFeatures


class FeatureVAE(LatentPriorModel):
    r"""z ~ N(0, I);  y_l = phi_l(x) ~ N(phi_l(g(z)), sigma_l^2), layer by layer of a frozen network phi.

    g(z) is an image in [0, 1], the decoder's through a sigmoid. What is observed are the features y_l of the data x:
    the model's numbers, in training and in evaluation, are nats of a density **of these features**, and say so. They
    are no log p(x) of pixels: phi is not invertible, and ``exp(-|phi(x) - phi(g(z))|^2)`` as a density of x has a
    normalizer that depends on z and that nobody knows. Without data the model draws features around those of g(z), and
    returns g(z) itself, which is what is shown of it.

    Sites: ``z`` with event shape (latent_dim,), ``features_<layer>`` with that of the layer, and the deterministic
    ``image``, g(z).

    Args:
        data_shape: shape of an image, (channels, height, width).
        features: phi, such as ``networks.EfficientNetLite0Features``, or any module from images ``(batch, channels,
            height, width)`` in [0, 1] to features; it is frozen.
        latent_dim: dimensions of z.
        decoder: ``"mlp"``, ``"conv"``, or a module from ``(..., latent_dim)`` to ``(..., *data_shape)``, before the
            sigmoid.
        hidden_dims: widths of the decoder's layers from z to x (conv: channels).
        activation: its nonlinearity, by name.
        scale: sigma_l in the features' units: ``"learned"``, one number a layer that starts at 1, or a positive number.
        min_scale: lower bound of learned ones.
        data_mean: mean of the training data, shape ``data_shape``; g starts there.
        prior: p(z), learned, of shape (latent_dim,); N(0, I) if not given.

    Raises:
        InputError: for data that are no images, unknown names, numbers that are not positive, and what the features
            refuse.

    Source: Hou et al. 2016, arXiv:1610.00291 (the loss); with learned sigma_l a density, as in Kingma & Welling 2014.

    Example:
        >>> import pyro_vae, torch
        >>> phi = torch.nn.Conv2d(1, 4, 3, stride=2)
        >>> model = pyro_vae.models.FeatureVAE((1, 8, 8), phi, latent_dim=2, hidden_dims=(4,))
        >>> {name: tuple(value.shape) for name, value in pyro_vae.sample(model, 5).items()}
        {'z': (5, 2), 'features_0': (5, 4, 3, 3), 'image.mean': (5, 1, 8, 8)}
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        features: nn.Module,
        latent_dim: int = 100,
        decoder: str | nn.Module = "conv",
        hidden_dims: Sequence[int] = (128, 64, 32),
        activation: str = "leaky_relu",
        scale: float | Literal["learned"] = "learned",
        min_scale: float = 1e-3,
        data_mean: Tensor | None = None,
        prior: LatentPrior | None = None,
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        if len(self.data_shape) != 3:
            raise InputError(f"FeatureVAE: data must be images (channels, height, width), got shape {self.data_shape}")
        if isinstance(scale, str) and scale != "learned":
            raise InputError(f"scale: must be a positive number or 'learned', got '{scale}'")
        self.latent_dim = positive("latent_dim", latent_dim)
        self.decoder = make_decoder(decoder, latent_dim, hidden_dims, self.data_shape, activation)
        self.features = FrozenFeatures(features)
        shapes = self.features.shapes(self.data_shape)
        self.event_dims = {layer: len(shape) for layer, shape in shapes.items()}
        self.likelihoods = nn.ModuleDict({layer: Gaussian(scale, min_scale) for layer in shapes})
        self.take_prior(prior, "z", (latent_dim,))
        self.likelihood = Bernoulli()  # of nothing: its bias is that of a sigmoid with the data's mean
        self.init_output_bias(self.decoder, data_mean)

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on images ``x``, ``(batch, *data_shape)`` in [0, 1], or sample ``num_samples`` data."""
        seen = {} if x is None else self.features_of_data(x)
        with self.data_plate(x, num_samples):
            z = pyro.sample("z", self.prior())  # (..., batch, latent_dim)
            image = pyro.deterministic("image", torch.sigmoid(self.decoder(z)), event_dim=3)
            for layer, value in self.features(image).items():
                pyro.sample(
                    f"features_{layer}",
                    self.likelihoods[layer](value, self.event_dims[layer]),
                    obs=seen.get(layer),
                    infer={"density_of": f"features {layer} of x"},
                )
            return image

    @torch.no_grad()
    def features_of_data(self, x: Tensor) -> dict[str, Tensor]:
        """phi_l(x) by layer, ``(batch, *shape of the layer)``."""
        return self.features(x)
