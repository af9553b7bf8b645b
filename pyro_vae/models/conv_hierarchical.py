"""The convolutional hierarchical VAE's generative model: a latent vector, and below it grids of latents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.errors import InputError, below_one, positive
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.models.base import LatentPriorModel
from pyro_vae.networks.conv import halved_sizes
from pyro_vae.networks.features import Shape
from pyro_vae.networks.layers import activation as make_activation
from pyro_vae.networks.layers import apply_batched
from pyro_vae.networks.mlp import diagonal_normal
from pyro_vae.networks.stages import ConvBlocks, Enlarge, PixelOutput, by_channels
from pyro_vae.priors import LatentPrior

MIN_SCALE = 0.1  # of p(z_i | h); z_i may be as large as it needs to be, and float32 has seven digits


class ConvHierarchicalVAE(LatentPriorModel):
    r"""A hierarchy of one latent vector and grids of latents, with a deterministic path of feature maps down to x.

    .. math::
        z_L \sim N(0, I), \quad h = f_L(z_L); \qquad
        z_i \sim N(\mu_i(h), \sigma_i^2(h)), \quad h \leftarrow f_i(h + g_i(z_i)), \quad i = L-1, ..., 1; \qquad
        x \sim likelihood(decoder(h))

    with f_i residual convolutions, after which h is enlarged where the next latent lies on a finer grid. Sites:
    ``zL`` of event shape (latent_dim,), ``z{L-1}`` … ``z1`` of (latent_channels, height, width) each, and ``x``.

    The decoder enlarges the finest features to pixels. A likelihood of patches
    (:class:`~pyro_vae.likelihoods.PatchMixture`) takes features on a coarser grid: the path ends at that scale then,
    and the finer ones are the guide's alone.

    Args:
        data_shape: shape of one image, (channels, height, width).
        latent_dim: dimensions of z_L.
        channels: of the features h at every scale, finest first; the first has half the image's sides, each further
            one half of the sides before (rounding up).
        num_latents: grids of latents at every scale, finest first.
        latent_channels: channels of each of these grids, by scale.
        num_blocks: residual blocks of each f_i.
        likelihood: p(x | decoder features); Bernoulli if not given.
        activation: nonlinearity, by name.
        batch_norm: normalize inside the blocks, each channel over data, particles and pixels.
        dropout: rate inside the blocks, in training.
        data_mean: mean of the training data, shape ``data_shape``; the decoder's output bias starts there.
        prior: p(z_L), learned, of shape (latent_dim,); N(0, I) if not given.

    Raises:
        InputError: for lists of different length, sizes that are not positive, data that are no images or too small
            for so many scales, a dropout that is no probability below 1, an unknown activation, a data_mean of another
            shape; for a likelihood whose features lie on none of the grids, or on a coarser one than some latents.

    Source: Vahdat & Kautz 2020, arXiv:2007.03898 (NVAE), at sizes that a CPU can train; the ConvHVAE of Tomczak &
    Welling 2018, arXiv:1705.07120, has two latent vectors.

    Example:
        >>> import pyro_vae
        >>> model = pyro_vae.models.ConvHierarchicalVAE((1, 8, 8), 3, channels=(8, 8), num_latents=(1, 2))
        >>> {name: tuple(value.shape) for name, value in pyro_vae.sample(model, 5).items() if name.startswith("z")}
        {'z4': (5, 3), 'z3': (5, 4, 2, 2), 'z2': (5, 4, 2, 2), 'z1': (5, 1, 4, 4)}
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dim: int = 20,
        channels: Sequence[int] = (24, 64),
        num_latents: Sequence[int] = (0, 3),
        latent_channels: Sequence[int] = (1, 4),
        num_blocks: int = 1,
        likelihood: Likelihood | None = None,
        activation: str = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
        data_mean: Tensor | None = None,
        prior: LatentPrior | None = None,
    ) -> None:
        super().__init__()
        check_scales(channels, num_latents, latent_channels)
        positive("num_blocks", num_blocks)
        below_one("dropout", dropout)
        self.data_shape, self.latent_dim = tuple(data_shape), positive("latent_dim", latent_dim)
        self.num_latents = tuple(num_latents)
        sizes = halved_sizes(self.data_shape, len(channels), "ConvHierarchicalVAE")[1:]
        self.scales: list[Shape] = [(width, *size) for width, size in zip(channels, sizes, strict=True)]
        self.scale_of = [s for s, count in enumerate(num_latents) for _ in range(count)]  # of z_1, …, z_{L-1}
        self.likelihood = likelihood if likelihood is not None else Bernoulli()
        self.top = nn.Linear(latent_dim, self.scales[-1][0] * sizes[-1][0] * sizes[-1][1])
        self.top_blocks = ConvBlocks(channels[-1], num_blocks, activation, batch_norm, dropout)
        self.stages = nn.ModuleList(
            LatentStage(channels[s], latent_channels[s], num_blocks, activation, batch_norm, dropout)
            for s in self.scale_of
        )
        self.last = last_scale(self.feature_shape[1:], self.data_shape[1:], sizes, num_latents)
        self.enlarge = nn.ModuleList(  # from scale s + last + 1 to s + last
            Enlarge(coarse, fine, activation) for fine, coarse in pairwise(self.scales[self.last :])
        )
        of_pixels = self.feature_shape[1:] == self.data_shape[1:]
        finer, kernel = (2, 3) if of_pixels else (1, 1)
        self.decoder = PixelOutput(self.scales[self.last], self.feature_shape, activation, finer, kernel)
        self.take_prior(prior, f"z{len(self.scale_of) + 1}", (latent_dim,))
        self.init_output_bias(self.decoder, data_mean)

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, or sample ``num_samples`` data."""
        with self.data_plate(x, num_samples):
            z = pyro.sample(f"z{len(self.stages) + 1}", self.prior())  # (..., batch, latent_dim)
            h, i = apply_batched(self._top, z, 1), len(self.stages)  # (..., batch, *scales[-1])
            for s in range(len(self.scales) - 1, self.last - 1, -1):
                for _ in range(self.num_latents[s]):
                    stage, here = self.stages[i - 1], {"features": h}  # for a guide that looks at the top-down state
                    z = pyro.sample(f"z{i}", stage.conditional(h).to_event(3), infer=here)
                    h, i = stage(h, z), i - 1  # (..., batch, *scales[s])
                if s > self.last:
                    h = apply_batched(self.enlarge[s - self.last - 1], h, 3)  # (..., batch, *scales[s - 1])
            features = self.decoder(h)  # (..., batch, P * channels, height, width)
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)

    def _top(self, z: Tensor) -> Tensor:
        return self.top_blocks(by_channels(self.top(z).reshape(-1, *self.scales[-1])))


class LatentStage(nn.Module):
    """p(z_i | h), and what z_i does to h: h <- f(h + g(z_i)); features ``(..., channels, height, width)``.

    Args:
        channels: of h.
        latent_channels: of z_i, on h's grid.
        num_blocks: residual blocks of f.
        activation: nonlinearity, by name.
        batch_norm: normalize inside the blocks, each channel over data, particles and pixels.
        dropout: rate inside the blocks, in training.
    """

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        num_blocks: int,
        activation: str,
        batch_norm: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.head = nn.Sequential(make_activation(activation), nn.Conv2d(channels, 2 * latent_channels, 1))
        nn.init.zeros_(self.head[-1].weight)  # N(0, I) at first
        nn.init.zeros_(self.head[-1].bias)
        self.inject = nn.Conv2d(latent_channels, channels, 1)
        self.blocks = ConvBlocks(channels, num_blocks, activation, batch_norm, dropout)

    def conditional(self, h: Tensor) -> dist.Normal:
        """p(z_i | h), elementwise, ``(..., latent_channels, height, width)``."""
        return diagonal_normal(apply_batched(self.head, h, 3), MIN_SCALE, dim=-3)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """The features after z."""
        return apply_batched(self.blocks, h + apply_batched(self.inject, z, 3), 3)


def last_scale(
    features: tuple[int, ...], pixels: tuple[int, ...], sizes: Sequence[tuple[int, int]], num_latents: Sequence[int]
) -> int:
    """The scale at which the path to x ends: 0, or the one on whose grid a likelihood of patches takes its features.

    Args:
        features, pixels: sides of what the likelihood takes, and of the data.
        sizes: sides of the grids by scale, finest first.
        num_latents: grids of latents at every scale.

    Raises:
        InputError: if there is no such scale, or there are latents at a finer one.
    """
    if features == pixels:
        return 0
    if features not in sizes:
        grids = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise InputError(f"the likelihood takes features on a grid of {features[0]}x{features[1]}; there are {grids}")
    last = sizes.index(features)
    if any(num_latents[:last]):
        raise InputError(
            f"the likelihood takes features on a grid of {features[0]}x{features[1]}: latents on finer grids would not "
            f"reach it; num_latents must be 0 at the first {last}, got {list(num_latents)}"
        )
    return last


def check_scales(channels: Sequence[int], num_latents: Sequence[int], latent_channels: Sequence[int]) -> None:
    """Check the sizes by scale.

    Raises:
        InputError: for no scale, lists of different length, or sizes that are not positive.
    """
    if not channels or not len(channels) == len(num_latents) == len(latent_channels):
        raise InputError(
            "channels, num_latents and latent_channels need one number for each scale, finest first; got "
            f"{list(channels)}, {list(num_latents)} and {list(latent_channels)}"
        )
    if min(*channels, *latent_channels) < 1 or min(num_latents) < 0:
        raise InputError(
            "channels and latent_channels must be positive, num_latents not negative; got "
            f"{list(channels)}, {list(latent_channels)} and {list(num_latents)}"
        )
