"""A likelihood of images whose patches are mixtures: pixels near one another may depend on one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.images import ImageLikelihood

SPREAD = 0.5  # of the components' means at the start, in units of mean (1 - mean), on both sides


class PatchMixture(ImageLikelihood):
    r"""p(x | f) = prod_g sum_k w_gk prod_{i in g} output(x_i; f_gki): each patch g is a mixture of K; nats.

    Images are parted into square patches. All pixels of a patch belong to one of K components, whose number is a
    latent of the patch that is summed over exactly: what is local, such as a texture or how dark a patch is, need not
    go through latents that a guide has to infer, and costs no gap of the bound. Given the features patches
    are independent, and pixels of one component too: it is no autoregressive likelihood, and draws take one pass.

    The decoder gives features on the grid of patches, ``(K (1 + P n), height / side, width / side)`` for patches of n =
    C side^2 numbers: the K logits of w, then of each component the P n parameters of its numbers, the parameter
    outermost, then channel, row and column.

    Args:
        output: of each number given its component: ``Bernoulli`` or ``Categorical``,
            ``DiscretizedLogisticMixture`` for grey levels; Bernoulli if not given.
        num_components: K.
        side: of a patch, in pixels; it divides the sides of the images.
        data_channels: C of the images.

    Raises:
        InputError: for sizes that are not positive, and for outputs that are no probabilities of single numbers.

    Source: mixtures of products (latent class models): Bishop 2006, Pattern Recognition and Machine Learning, 9.3.3.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import PatchMixture
        >>> likelihood = PatchMixture(num_components=3, side=4)
        >>> likelihood.feature_shape((1, 28, 28))
        (51, 7, 7)
        >>> p = likelihood(torch.zeros(7, 5, 51, 7, 7))  # 7 particles
        >>> p.log_prob(torch.ones(5, 1, 28, 28)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        output: Likelihood | None = None,
        num_components: int = 16,
        side: int = 4,
        data_channels: int = 1,
    ) -> None:
        super().__init__(output, data_channels)
        self.num_components = positive("PatchMixture: num_components", num_components)
        self.side = positive("PatchMixture: side", side)
        self.num_parameters = num_components * (1 + self.output.num_parameters * data_channels * side**2)  # of a patch

    def feature_shape(self, data_shape: Sequence[int]) -> tuple[int, ...]:
        """``(K (1 + P n), height / side, width / side)`` for images (C, height, width).

        Raises:
            InputError: if data are no images of C channels, or the sides are no multiples of a patch's.
        """
        self.check_images(data_shape)
        return (self.num_parameters, *grid_of(data_shape, self.side, type(self).__name__))

    def forward(self, features: Tensor, event_dim: int = 3) -> distributions.PatchMixture:
        """The distribution of images given features ``(..., K (1 + P n), rows, columns)``.

        Raises:
            InputError: for data that are no images, or features of other channels.
        """
        self.check_features(features, event_dim, "rows, columns")
        if features.dtype in (torch.float16, torch.bfloat16):
            features = features.float()
        places = features.movedim(-3, -1)  # (..., rows, columns, K (1 + P n))
        count = self.num_components
        logits, parameters = places.split([count, self.num_parameters - count], -1)  # whose gradient is one pass
        components = parameters.unflatten(-1, (count, -1))  # (..., K, P n)
        return distributions.PatchMixture(logits, self.output(components, 1), self.side)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """Equal weights, and components from darker to brighter than the mean, which all together have it.

        Args:
            mean: mean of the data, ``(C, height, width)``.

        Returns:
            ``(K (1 + P n), rows, columns)``.
        """
        count, (_, rows, columns) = self.num_components, self.feature_shape(mean.shape)
        apart = torch.linspace(-SPREAD, SPREAD, count).to(mean) if count > 1 else mean.new_zeros(1)
        means = mean + apart.reshape(-1, 1, 1, 1) * mean * (1 - mean)  # (K, C, height, width)
        vectors = distributions.patches_of(means, self.side).movedim(-1, 1).contiguous()  # (K, n, rows, columns)
        biases = torch.cat([self.output.initial_bias(vector) for vector in vectors])  # (K P n, rows, columns)
        return torch.cat([mean.new_zeros(count, rows, columns), biases])


def grid_of(data_shape: Sequence[int], side: int, who: str) -> tuple[int, int]:
    """Rows and columns of the patches of images (C, height, width).

    Args:
        data_shape: of an image.
        side: of a patch.
        who: the likelihood, for the message.

    Raises:
        InputError: if the side does not divide both of the image's.
    """
    _, height, width = data_shape
    if height % side or width % side:
        raise InputError(
            f"{who}: images of {height}x{width} cannot be parted into patches of side {side}; it must divide both"
        )
    return height // side, width // side
