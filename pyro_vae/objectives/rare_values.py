"""The ELBO with a penalty that weighs errors at pixels of rare values, such as saturated colours."""

from __future__ import annotations

from typing import Literal, Self

import torch
from torch import Tensor, nn

from pyro_vae.data import Split
from pyro_vae.errors import InputError, not_negative, positive
from pyro_vae.objectives.mean_penalty import IMAGE_DIMS, MeanPenalty
from pyro_vae.programs.context import X
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.sites import Site
from pyro_vae.programs.traces import TracePair

HISTOGRAM = "histogram"
COUNTED = 1000  # training data whose pixels are counted
MOST_BINS = 2**16


class RareValues(MeanPenalty):
    r"""The ELBO, and squared errors weighed by how rare a pixel's value is: colours are to be no greyer than they are.

    .. math:: -ELBO + \lambda\, E_{q(z|x)} \sum_p w(x_p) \lVert x_p - \hat x_p(z) \rVert^2, \quad \hat x(z) = E[x | z],
        \quad w(v) \propto \Big[(1 - \alpha)\, h(v) + \frac{\alpha}{B}\Big]^{-1}

    x_p is the vector of a pixel's channels, h the histogram of these over the first training data, of B bins, and w
    has mean 1 over their pixels. The weights depend on the target: this is no density, log p(x) stays that of the
    likelihood, and the loss is no bound on -log p(x) but for lambda = 0. Metric: ``penalty/rare values``.

    Args:
        weight: lambda, nats per squared unit of the data.
        num_bins: of every channel, between the least and the greatest value.
        uniform: alpha, in (0, 1]; 1: all weights are 1.
        site: name of the data site with the images; None: the only one.
        num_particles, analytic_kl, free_bits, free_bits_of: as of :class:`ELBO`.

    Raises:
        InputError: for a negative weight, another alpha, sizes that are not positive; of programs whose data are no
            images, lack some pixels, or have no mean given z; for more than 65,536 bins in all.

    Source: Deshpande et al. 2017, arXiv:1612.01958, section 4.1 (a weight by the histogram of colours); Zhang et al.
    2016, arXiv:1603.08511, equation 4 (with alpha = 1/2).

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.objectives import RareValues
        >>> model = pyro_vae.models.FieldVAE((2, 8, 8), (1, 8, 8), latent_dim=3, channels=(8, 12), context_dim=10)
        >>> guide = pyro_vae.guides.FieldGuide(model, channels=(8, 12), context_dim=10)
        >>> data = {"x": torch.randn(40, 2, 8, 8), "image": torch.rand(40, 1, 8, 8)}
        >>> how = {"epochs": 1, "device": "cpu", "progress": False}
        >>> result = pyro_vae.fit(model, guide, data, objective=RareValues(weight=0.5), **how)
        >>> [name for name in result.records[0] if "penalty" in name]
        ['train/penalty/rare values']
    """

    kind, looks_at = "rare ", "pixels"

    def __init__(
        self,
        weight: float = 1.0,
        num_bins: int = 16,
        uniform: float = 0.5,
        site: str | None = None,
        num_particles: int = 1,
        analytic_kl: bool = True,
        free_bits: float | dict[str, float] = 0.0,
        free_bits_of: Literal["batch", "datum"] = "batch",
    ) -> None:
        super().__init__(num_particles, analytic_kl, free_bits, free_bits_of)
        not_negative("RareValues: weight", weight)
        if not 0 < uniform <= 1:
            raise InputError(f"RareValues: uniform must be above 0, and 1 at most, got {uniform}")
        self.weight, self.uniform, self.site = float(weight), uniform, site
        self.num_bins = positive("RareValues: num_bins", num_bins)
        self._networks = nn.ModuleDict()

    def prepare(self, pair: Pair, split: Split) -> Self:
        """The same objective for a pair of images' programs, with the histogram of the first training data."""
        if len(split.shape) != IMAGE_DIMS or self.num_bins ** split.shape[0] > MOST_BINS:
            raise InputError(
                f"RareValues counts values of pixels in {self.num_bins} bins a channel, {MOST_BINS:,} in all at most, "
                f"and one x has shape {split.shape}: images (channels, height, width) of fewer channels, or fewer bins"
            )
        x = split.fixed().batch(slice(0, COUNTED))[X]
        self._networks[HISTOGRAM] = _Weights(x, self.num_bins, self.uniform)
        self.check_images(pair, split)
        return super().prepare(pair, split)

    def penalties(self, site: Site, pair: TracePair) -> dict[str, Tensor]:
        """``lambda sum_p w(x_p) |x_p - x^_p|^2``, nats, ``(K, N)``."""
        x = site["value"]
        square = (x - self.mean(site)).square().sum(-3)  # (..., batch, H, W)
        weights = self._networks[HISTOGRAM](x)
        return {"values": pair.per_datum(self.weight * (weights * square).sum((-2, -1)), site)}


class _Weights(nn.Module):
    """w of pixels' values, by a table of bins.

    Args:
        x: data ``(N, C, H, W)``.
        num_bins: of a channel.
        uniform: alpha.
    """

    low: Tensor
    width: Tensor
    table: Tensor

    def __init__(self, x: Tensor, num_bins: int, uniform: float) -> None:
        super().__init__()
        self.num_bins = num_bins
        self.register_buffer("low", x.amin((0, 2, 3)))
        self.register_buffer("width", (x.amax((0, 2, 3)) - self.low).clamp(min=1e-12) / num_bins)
        bins = num_bins ** x.shape[1]
        share = torch.bincount(self.bin_of(x).flatten(), minlength=bins).double() / x[:, 0].numel()
        weights = ((1 - uniform) * share + uniform / bins).reciprocal()
        self.register_buffer("table", (weights / (share * weights).sum()).to(x))

    def bin_of(self, x: Tensor) -> Tensor:
        """Which bin a pixel is in, int64 ``(..., H, W)``, of ``(..., C, H, W)``."""
        low, width = self.low.view(-1, 1, 1), self.width.view(-1, 1, 1)
        index = ((x - low) / width).long().clamp(0, self.num_bins - 1).unbind(-3)
        found = index[0]
        for channel in index[1:]:
            found = found * self.num_bins + channel
        return found

    def forward(self, x: Tensor) -> Tensor:
        """w ``(..., H, W)`` of values ``(..., C, H, W)``."""
        return self.table[self.bin_of(x)]
