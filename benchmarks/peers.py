"""Peers' models at the sizes of ours, for benchmarks; everything is imported when it is asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def pythae_vae(data_shape: tuple[int, ...], hidden: Sequence[int], latent: int) -> Any:
    """pythae's VAE with tanh layers of the given sizes and a Bernoulli likelihood; None where it is not installed."""
    try:
        from pythae.models import VAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
    except ImportError:
        return None

    def layers(*sizes: int) -> list[nn.Module]:
        return [m for i, o in itertools.pairwise(sizes) for m in (nn.Linear(i, o), nn.Tanh())]

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), *layers(math.prod(data_shape), *hidden))
            self.loc, self.log_var = nn.Linear(hidden[-1], latent), nn.Linear(hidden[-1], latent)

        def forward(self, x: Tensor) -> Any:
            h = self.body(x)
            return ModelOutput(embedding=self.loc(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            last = nn.Linear(hidden[0], math.prod(data_shape))
            self.body = nn.Sequential(*layers(latent, *hidden[::-1]), last, nn.Sigmoid())

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.body(z).reshape(-1, *data_shape))

    config = VAEConfig(input_dim=data_shape, latent_dim=latent, reconstruction_loss="bce")
    return VAE(config, Encoder(), Decoder())


def vector_quantize(dim: int, num_codes: int, decay: float, commitment: float, image: bool) -> Any:
    """vector-quantize-pytorch's quantizer with moving averages; None where it is not installed."""
    try:
        from vector_quantize_pytorch import VectorQuantize
    except ImportError:
        return None
    return VectorQuantize(
        dim, num_codes, decay=decay, commitment_weight=commitment, rotation_trick=False, accept_image_fmap=image
    )
