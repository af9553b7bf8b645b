"""The vector-quantized variational autoencoder's generative model."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.likelihoods import DiscretizedLogisticMixture, Likelihood
from pyro_vae.models.base import LatentCodeModel
from pyro_vae.networks import VectorQuantizer
from pyro_vae.networks.grids import GridDecoder, grid_shape
from pyro_vae.priors import UniformPrior


class VQVAE(LatentCodeModel):
    r"""codes ~ p(codes);  z = e[codes];  x | z ~ likelihood(decoder(z)).

    .. math:: p(codes) = K^{-N} \text{ or a learned prior}, \quad z_i = e_{codes_i}, \quad x \sim likelihood(decoder(z))

    Sites: ``codes``, integers with event shape ``grid``; ``z`` with event shape ``(code_dim, *grid)``, a point mass at
    the codebook's vectors; ``x``. The prior over the codes is uniform until a learned one takes its place in
    ``priors["codes"]``; where that one is conditional on a class label, the model's argument ``y`` is needed. Where it
    is one over texts, too, there is a site ``text`` before the codes, observed if the argument ``text`` is given.

    Args:
        data_shape: shape of one datum, (channels, height, width) or (channels, length); its sides must be multiples of
            ``2 ** halvings``.
        num_codes: K.
        code_dim: D, dimensions of a code's vector.
        halvings: the grid has ``2 ** -halvings`` of the data's sides.
        channels: of the decoder's features.
        num_blocks: residual blocks.
        block_channels: channels inside them.
        likelihood: p(x | decoder features); a discretized logistic mixture of 5 components if not given.
        quantizer: options of :class:`~pyro_vae.networks.VectorQuantizer`.
        data_mean: mean of the training data, shape ``data_shape``; the decoder's output bias starts at its mean.

    Raises:
        InputError: if the data do not divide into a grid; for sizes that are not positive; as the quantizer.

    Source: van den Oord et al. 2017, arXiv:1711.00937.

    Example:
        >>> import pyro_vae
        >>> model = pyro_vae.models.VQVAE((3, 16, 16), num_codes=32, code_dim=4, channels=8)
        >>> {name: tuple(value.shape) for name, value in pyro_vae.sample(model, 5).items() if name != "x.mean"}
        {'codes': (5, 4, 4), 'z': (5, 4, 4, 4), 'x': (5, 3, 16, 16)}
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_codes: int = 512,
        code_dim: int = 64,
        halvings: int = 2,
        channels: int = 128,
        num_blocks: int = 2,
        block_channels: int = 32,
        likelihood: Likelihood | None = None,
        quantizer: dict[str, bool | int | float | str | None] | None = None,
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.likelihood = likelihood if likelihood is not None else DiscretizedLogisticMixture(5)
        self.grid = grid_shape(data_shape, halvings, "VQVAE")
        self.halvings, self.widths = halvings, (channels, num_blocks, block_channels)
        self.quantizer = VectorQuantizer(num_codes, code_dim, len(self.grid), **(quantizer or {}))
        self.decoder = GridDecoder(code_dim, self.feature_shape, channels, halvings, num_blocks, block_channels)
        self.priors = nn.ModuleDict({"codes": UniformPrior(num_codes, self.grid)})
        self.init_output_bias(self.decoder, data_mean)

    def forward(
        self, x: Tensor | None = None, *, y: Tensor | None = None, text: Tensor | None = None, num_samples: int = 1
    ) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, or sample ``num_samples`` data."""
        with self.data_plate(x, num_samples):
            text = self.sample_text(text)
            codes = pyro.sample("codes", self.priors["codes"](y=y, text=text))  # (..., batch, *grid)
            e = self.quantizer.embed(codes)  # (..., batch, code_dim, *grid)
            z = pyro.sample("z", dist.Delta(e, event_dim=1 + len(self.grid)))
            features = self.decoder(z)  # (..., batch, P * channels, *sides)
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)
