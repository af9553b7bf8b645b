"""The ELBO with a penalty on features: reconstructions are to look like the data to a network trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from torch import Tensor, nn

from pyro_vae.data import Split
from pyro_vae.errors import not_negative, unknown
from pyro_vae.objectives.mean_penalty import IMAGE_DIMS, MeanPenalty, wide
from pyro_vae.programs.image_features import FrozenFeatures
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.sites import Site
from pyro_vae.programs.traces import TracePair

FEATURES = "features"


class Perceptual(MeanPenalty):
    r"""The ELBO, and a penalty on the difference between the features of data and of reconstructions.

    .. math:: -ELBO + \sum_l w_l\, E_{q(z|x)} \lVert \phi_l(x) - \phi_l(\hat x(z)) \rVert^2,
              \quad \hat x(z) = E[x | z]

    with the square **summed** over all numbers of layer l (as log p(x | z) is summed over pixels), averaged over data;
    w_l is in nats per squared unit of the features. The penalty is that of Gaussian features with standard deviation
    1 / sqrt(2 w_l), without their normalizer: it is no density, and log p(x) stays that of the pixels, to which it adds
    nothing. The loss is therefore no bound on -log p(x) but for w = 0. It is part of the validation loss.

    The features of the data have no gradient, and the network neither trains nor leaves evaluation mode. The image is
    the data site, and its mean given z is what is looked at. Metrics: ``penalty/perceptual/<layer>``, with its weight.

    Args:
        features: phi, such as ``networks.EfficientNetLite0Features``, or any module from images ``(batch, channels,
            height, width)`` in [0, 1] to features (a tensor, several, or a dict by layer); it is frozen.
        weight: w_l, of all layers or by layer; those that are not named have none.
        site: name of the data site with the images; None: the only one.
        num_particles, analytic_kl, free_bits, free_bits_of: as of :class:`ELBO`.

    Raises:
        InputError: for features that are no module, negative weights, unknown layers; of programs whose data are no
            images, lack some pixels, or have no mean given z.

    Source: Hou et al. 2016, arXiv:1610.00291 (without the pixels' likelihood, and with means in place of sums).

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.objectives import Perceptual
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> objective = Perceptual(torch.nn.Conv2d(1, 4, 3), weight=0.5)
        >>> x = (torch.rand(40, 1, 8, 8) > 0.5).float()
        >>> result = pyro_vae.fit(model, guide, x, objective=objective, epochs=2, device="cpu", progress=False)
        >>> sorted(name for name in result.records[0] if "penalty" in name)
        ['train/penalty/perceptual/0']
    """

    kind, looks_at = "perceptual/", "features"

    def __init__(
        self,
        features: nn.Module,
        weight: float | dict[str, float] = 1.0,
        site: str | None = None,
        num_particles: int = 1,
        analytic_kl: bool = True,
        free_bits: float | dict[str, float] = 0.0,
        free_bits_of: Literal["batch", "datum"] = "batch",
    ) -> None:
        super().__init__(num_particles, analytic_kl, free_bits, free_bits_of)
        for layer, value in weight.items() if isinstance(weight, Mapping) else [("", weight)]:
            not_negative(f"Perceptual: weight {layer}".rstrip(), value)
        self.weight, self.site = weight, site
        self._networks = nn.ModuleDict({FEATURES: FrozenFeatures(features)})

    def prepare(self, pair: Pair, split: Split) -> Self:
        """The same objective for a pair and data that have images with features."""
        self.check_images(pair, split)
        return super().prepare(pair, split)

    def penalties(self, site: Site, pair: TracePair) -> dict[str, Tensor]:
        """``w_l |phi_l(x) - phi_l(x^(z))|^2`` by layer, nats, ``(K, N)``."""
        phi = self._networks[FEATURES]
        with torch.no_grad():
            of_data = phi(site["value"])
        of_mean = phi(self.mean(site))
        found = {}
        for layer, weight in self._weights(of_mean).items():
            shape = of_data[layer].shape[site["value"].dim() - IMAGE_DIMS :]
            difference = wide(of_mean[layer]) - wide(of_data[layer])
            found[layer] = pair.per_datum(weight * difference.square().sum(tuple(range(-len(shape), 0))), site)
        return found

    def _weights(self, features: Mapping[str, Tensor]) -> dict[str, float]:
        if not isinstance(self.weight, Mapping):
            return dict.fromkeys(features, float(self.weight))
        for layer in self.weight:
            if layer not in features:
                raise unknown("layer in Perceptual's weight", layer, features)
        return {layer: float(value) for layer, value in self.weight.items()}
