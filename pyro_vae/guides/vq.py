"""The vector-quantized variational autoencoder's guide."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.models.vq import VQVAE
from pyro_vae.networks import Quantized
from pyro_vae.networks.grids import CONV, GridEncoder
from pyro_vae.programs.handlers import penalty


class VQGuide(PyroModule):
    r"""q(codes | x): a point mass at the codes nearest to encoder(x), with a straight-through z.

    .. math:: codes_i = \arg\min_j \|z_e(x)_i - e_j\|, \qquad \partial z / \partial z_e = I

    and, in training only, the penalty :math:`\beta \sum_i \|z_e(x)_i - sg(e_{codes_i})\|^2` (nats), to which a codebook
    that is trained by gradient adds :math:`\sum_i \|sg(z_e(x)_i) - e_{codes_i}\|^2`.

    Args:
        model: whose quantizer it uses.
        channels: of the encoder's features; the model's decoder's if not given.

    Source: van den Oord et al. 2017, arXiv:1711.00937, equations 1-3.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VQVAE((3, 16, 16), num_codes=32, code_dim=4, channels=8)
        >>> guide = pyro_vae.guides.VQGuide(model)
        >>> pyro_vae.encode(model, guide, torch.ones(5, 3, 16, 16))["codes"].shape
        torch.Size([5, 4, 4])
    """

    def __init__(self, model: VQVAE, channels: int | None = None) -> None:
        super().__init__()
        own, num_blocks, block_channels = model.widths
        self.model = model
        self.encoder = GridEncoder(model.data_shape, channels or own, model.halvings, num_blocks, block_channels)
        self.to_codes = CONV[len(model.grid)](channels or own, model.quantizer.dim, 1)

    def forward(self, x: Tensor) -> None:
        """Sample the codes of data ``x``, ``(batch, *data_shape)``."""
        quantized = self.model.quantizer(self.to_codes(self.encoder(x)))  # of (batch, code_dim, *grid)
        with pyro.plate("data", x.shape[0], dim=-1):
            sample_quantized("", quantized, len(self.model.grid))


def sample_quantized(level: str, quantized: Quantized, rank: int) -> Tensor:
    """The sites ``codes<level>``, ``z<level>`` and the penalty of one quantized grid; returns z.

    Args:
        level: suffix of the sites' names.
        quantized: codes ``(batch, *grid)``, z ``(batch, D, *grid)``, penalty ``(batch,)``.
        rank: of the grid.
    """
    report = {"report": {"perplexity": quantized.perplexity, "usage": quantized.usage}}
    pyro.sample(f"codes{level}", dist.Delta(quantized.codes, event_dim=rank), infer=report)
    z = pyro.sample(f"z{level}", dist.Delta(quantized.z, event_dim=rank + 1))
    penalty(f"quantization{level}", quantized.penalty)
    return z
