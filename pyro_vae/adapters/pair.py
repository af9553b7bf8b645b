"""The two programs of an encoder and a decoder that were trained elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.adapters.networks import Decoder, Encoder
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.base import LatentPriorModel


class DecoderModel(LatentPriorModel):
    """z ~ N(0, I);  x | z ~ likelihood(decoder(z)).

    Args:
        data_shape: shape of one datum.
        decoder: z to features.
        likelihood: p(x | features).
    """

    def __init__(self, data_shape: Sequence[int], decoder: Decoder, likelihood: Likelihood) -> None:
        super().__init__()
        self.data_shape, self.decoder, self.likelihood = tuple(data_shape), decoder, likelihood
        self.take_prior(None, "z", decoder.latent_shape)

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on data ``x`` (batch, *data_shape), or sample ``num_samples`` data."""
        with self.data_plate(x, num_samples):
            z = pyro.sample("z", self.prior())  # (..., batch, *latent_shape)
            return pyro.sample("x", self.likelihood(self.decoder(z), len(self.data_shape)), obs=x)


class EncoderGuide(PyroModule):
    """q(z | x) = N(z; mean(x), deviation(x)^2), elementwise.

    Args:
        encoder: x to mean and deviation.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on data ``x`` (batch, *data_shape)."""
        with pyro.plate("data", len(x), dim=-1):
            mean, deviation = self.encoder(x)  # (batch, *latent_shape)
            return pyro.sample("z", dist.Normal(mean, deviation).to_event(mean.dim() - 1))
