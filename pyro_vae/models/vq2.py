"""The generative model of VQ-VAE-2: a hierarchy of code grids."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.likelihoods import DiscretizedLogisticMixture, Likelihood
from pyro_vae.models.base import LatentCodeModel
from pyro_vae.networks import VectorQuantizer
from pyro_vae.networks.grids import GridDecoder, grid_shape
from pyro_vae.priors import UniformPrior

LEVELS = {2: ("bottom", "top"), 3: ("bottom", "middle", "top")}


class VQVAE2(LatentCodeModel):
    r"""codes_top ~ p(codes_top);  codes_bottom ~ p(codes_bottom | codes_top);  x ~ likelihood(decoder(all of them)).

    .. math:: p(x, codes) = p(codes_L) \prod_{l<L} p(codes_l \mid codes_{>l})\, p(x \mid z_1, \dots, z_L),
        \quad z_l = e_l[codes_l]

    with l = 1 the finest grid. The decoder carries the coarser vectors down: f_L = U_L(z_L), f_l = U_l(z_l, f_{l+1}),
    and sees (z_1, f_2). Sites: ``codes_top``, ``z_top``, (``codes_middle``, ``z_middle``,) ``codes_bottom``,
    ``z_bottom``, ``x``. Priors are uniform until learned ones take their places in ``priors[site]``; a learned one is
    given the coarser codes, the class label ``y`` if it is conditional on it, and the ``text``, a site before the codes
    where a prior is one over texts, too.

    Args:
        data_shape: shape of one datum, (channels, height, width) or (channels, length).
        num_codes: K of each level, the finest first.
        code_dim: D, dimensions of a code's vector.
        halvings: of the sides, from the data to the finest grid, and from each grid to the next coarser one.
        channels: of the decoder's features.
        num_blocks: residual blocks.
        block_channels: channels inside them.
        likelihood: p(x | decoder features); a discretized logistic mixture of 5 components if not given.
        quantizer: options of every level's :class:`~pyro_vae.networks.VectorQuantizer`.
        data_mean: mean of the training data, shape ``data_shape``; the decoder's output bias starts at its mean.

    Raises:
        InputError: for another number of levels than 2 or 3, lists of different length, data that do not divide into
            the grids; as the quantizer.

    Source: Razavi et al. 2019, arXiv:1906.00446.

    Example:
        >>> import pyro_vae
        >>> model = pyro_vae.models.VQVAE2((3, 16, 16), num_codes=(32, 16), code_dim=4, channels=8)
        >>> drawn = pyro_vae.sample(model, 5)
        >>> drawn["codes_top"].shape, drawn["codes_bottom"].shape, drawn["x"].shape
        (torch.Size([5, 4, 4]), torch.Size([5, 8, 8]), torch.Size([5, 3, 16, 16]))
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_codes: Sequence[int] = (512, 512),
        code_dim: int = 64,
        halvings: Sequence[int] = (1, 1),
        channels: int = 128,
        num_blocks: int = 2,
        block_channels: int = 64,
        likelihood: Likelihood | None = None,
        quantizer: dict[str, bool | int | float | str | None] | None = None,
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        if len(halvings) not in LEVELS or len(num_codes) != len(halvings):
            raise InputError(
                "VQVAE2 has 2 or 3 levels, and num_codes and halvings an entry for each; got num_codes "
                f"{list(num_codes)}, halvings {list(halvings)}"
            )
        self.data_shape = tuple(data_shape)
        self.likelihood = likelihood if likelihood is not None else DiscretizedLogisticMixture(5)
        self.levels, self.halvings, self.widths = (
            LEVELS[len(halvings)],
            tuple(halvings),
            (channels, num_blocks, block_channels),
        )
        self.grids = [grid_shape(data_shape, sum(halvings[: i + 1]), "VQVAE2") for i in range(len(halvings))]
        self.rank = len(self.grids[0])
        self.quantizers = nn.ModuleDict(
            {
                level: VectorQuantizer(k, code_dim, self.rank, **(quantizer or {}))
                for level, k in zip(self.levels, num_codes, strict=True)
            }
        )
        self.enlarge = nn.ModuleDict()  # U_l
        self.priors = nn.ModuleDict()
        coarser: dict[str, tuple[int, Sequence[int]]] = {}
        for i in reversed(range(len(self.levels))):
            level, grid, before = self.levels[i], self.grids[i], code_dim * (2 if coarser else 1)
            self.priors[f"codes_{level}"] = UniformPrior(num_codes[i], grid, coarser=coarser)
            coarser = coarser | {f"codes_{level}": (num_codes[i], grid)}
            if i:
                self.enlarge[level] = GridDecoder(before, (code_dim, *self.grids[i - 1]), channels, halvings[i], 0)
        self.decoder = GridDecoder(2 * code_dim, self.feature_shape, channels, halvings[0], num_blocks, block_channels)
        self.init_output_bias(self.decoder, data_mean)

    def forward(
        self, x: Tensor | None = None, *, y: Tensor | None = None, text: Tensor | None = None, num_samples: int = 1
    ) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, or sample ``num_samples`` data."""
        with self.data_plate(x, num_samples):
            text = self.sample_text(text)
            coarser: dict[str, Tensor] = {}
            f: list[Tensor] = []  # what the coarser levels give to this one, (..., batch, code_dim, *grid)
            for level in reversed(self.levels):
                prior = self.priors[f"codes_{level}"](y=y, text=text, **coarser)
                codes = pyro.sample(f"codes_{level}", prior)  # (..., batch, *grid)
                coarser[f"codes_{level}"] = codes
                e = self.quantizers[level].embed(codes)  # (..., batch, code_dim, *grid)
                z = pyro.sample(f"z_{level}", dist.Delta(e, event_dim=1 + self.rank))
                both = torch.cat([z, *f], -1 - self.rank)
                f = [self.enlarge[level](both)] if level in self.enlarge else [both]
            features = self.decoder(*f)  # (..., batch, P * channels, *sides)
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)
