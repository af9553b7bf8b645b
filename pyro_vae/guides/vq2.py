"""The guide of VQ-VAE-2."""

from __future__ import annotations

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.guides.vq import sample_quantized
from pyro_vae.models.vq2 import VQVAE2
from pyro_vae.networks.grids import CONV, GridDecoder, GridEncoder


class VQ2Guide(PyroModule):
    r"""Point masses at the codes of a hierarchy, the coarsest first, with straight-through vectors.

    .. math:: h_1 = E_1(x),\; h_l = E_l(h_{l-1}); \qquad z_l = quantize(W_l(h_l, c_{l+1})),\; c_l = D_l(z_l, c_{l+1})

    so that a finer grid holds what the coarser ones left out. In training every level adds its penalty
    (:class:`~pyro_vae.guides.VQGuide`).

    Args:
        model: whose quantizers it uses.

    Source: Razavi et al. 2019, arXiv:1906.00446, algorithm 1.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VQVAE2((3, 16, 16), num_codes=(32, 16), code_dim=4, channels=8)
        >>> latents = pyro_vae.encode(model, pyro_vae.guides.VQ2Guide(model), torch.ones(5, 3, 16, 16))
        >>> latents["codes_top"].shape, latents["codes_bottom"].shape
        (torch.Size([5, 4, 4]), torch.Size([5, 8, 8]))
    """

    def __init__(self, model: VQVAE2) -> None:
        super().__init__()
        channels, num_blocks, block_channels = model.widths
        self.model, self.data_shape = model, model.data_shape
        self.encoders, self.maps, self.down = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        shape = model.data_shape
        for i, level in enumerate(model.levels):
            self.encoders[level] = GridEncoder(shape, channels, model.halvings[i], num_blocks, block_channels)
            shape = self.encoders[level].out_shape
            quantizer, is_top = model.quantizers[level], i == len(model.levels) - 1
            given = 0 if is_top else channels  # of c_{l+1}
            self.maps[level] = CONV[model.rank](channels + given, quantizer.dim, 1)
            if i:
                finer = (channels, *model.grids[i - 1])
                self.down[level] = GridDecoder(
                    quantizer.dim + given, finer, channels, model.halvings[i], num_blocks, block_channels
                )

    def forward(self, x: Tensor) -> None:
        """Sample the codes of data ``x``, ``(batch, *data_shape)``, the coarsest first."""
        h, features = x, {}
        for level in self.model.levels:
            h = features[level] = self.encoders[level](h)  # (batch, channels, *grid)
        c: list[Tensor] = []
        with pyro.plate("data", x.shape[0], dim=-1):
            for level in reversed(self.model.levels):
                z_e = self.maps[level](torch.cat([features[level], *c], 1))  # (batch, code_dim, *grid)
                quantized = self.model.quantizers[level](z_e)
                sample_quantized(f"_{level}", quantized, self.model.rank)
                if level in self.down:
                    c = [self.down[level](torch.cat([quantized.z, *c], 1))]  # (batch, channels, *finer grid)
