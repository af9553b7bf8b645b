"""The PixelCNN over patches as a likelihood of images: each patch a mixture, given those before it and the features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyro_vae.distributions import AutoregressiveImage, PatchMixture, patches_of
from pyro_vae.errors import positive
from pyro_vae.likelihoods import patch_mixture
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.images import ImageLikelihood
from pyro_vae.networks import apply_batched
from pyro_vae.networks.gated import GatedStack, check_kernel
from pyro_vae.networks.layers import check_sizes
from pyro_vae.networks.pixel_head import AsImages


class PatchPixelCNN(ImageLikelihood):
    r"""p(x | f) = prod_g sum_k w_gk prod_{i in g} output(x_i; theta_gki), with w_g and theta_g of x_<g and f_g; nats.

    Images are parted into square patches, which come row by row. Each is a mixture of K whose component is summed over
    exactly, as in :class:`PatchMixture`, and it is given the patches before it, as a pixel of :class:`PixelCNN` is:
    layers of gated convolutions on the grid of patches see the image alone, without a blind spot, and say c_g. At each
    patch a head then joins that with the decoder's features,

    .. math::
        h_0 = A c_g + B f_g, \quad h_l = h_{l-1} + W_l\,\mathrm{silu}(V_l\,\mathrm{silu}(h_{l-1})), \quad
        (w_g, \theta_g) = O\,\mathrm{silu}(h_L)

    It is cheap: 28x28 pixels in patches of 4 are a grid of 7x7, and an image is drawn in 49 steps. The convolutions
    are computed once for an image, however many draws of the latents the features are of: many particles cost the head
    alone.

    Args:
        output: of each number given its component: ``Bernoulli`` or ``Categorical``,
            ``DiscretizedLogisticMixture`` for grey levels; Bernoulli if not given.
        num_components: K.
        side: of a patch, in pixels; it divides the sides of the images.
        features: F, channels of the decoder's features ``(..., F, rows, columns)``, on the grid of patches; 0, None:
            there is no decoder (:class:`~pyro_vae.models.PixelModel`).
        data_channels: C of the images.
        channels: of the layers that see the image.
        num_layers: how many.
        kernel: k of the first layer, odd: it sees k // 2 rows of patches above and columns to both sides, and to the
            left.
        inner_kernel: of the layers after it.
        head_channels: of the head.
        head_layers: L, of residual blocks.
        dropout: of the layers that see the image, in training.

    Attributes:
        reach: how many rows and columns of patches away a patch is still seen.

    Raises:
        InputError: for sizes that cannot be, and for outputs that are no probabilities of single numbers.

    Source: van den Oord et al. 2016, arXiv:1606.05328 (the layers); as a decoder: Gulrajani et al. 2017,
    arXiv:1611.05013; mixtures of products: Bishop 2006, Pattern Recognition and Machine Learning, 9.3.3.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import PatchPixelCNN
        >>> likelihood = PatchPixelCNN(num_components=3, side=4, features=8, channels=8)
        >>> likelihood.feature_shape((1, 28, 28))
        (8, 7, 7)
        >>> p = likelihood(torch.zeros(7, 5, 8, 7, 7))  # 7 particles
        >>> p.log_prob(torch.ones(5, 1, 28, 28)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        output: Likelihood | None = None,
        num_components: int = 16,
        side: int = 4,
        features: int | None = 64,
        data_channels: int = 1,
        channels: int = 64,
        num_layers: int = 2,
        kernel: int = 5,
        inner_kernel: int = 3,
        head_channels: int = 128,
        head_layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(output, data_channels)
        sizes = {"num_components": num_components, "side": side, "channels": channels, "num_layers": num_layers}
        check_sizes("PatchPixelCNN", dropout, **sizes, head_channels=head_channels, head_layers=head_layers)
        check_kernel("PatchPixelCNN: kernel", kernel)
        check_kernel("PatchPixelCNN: inner_kernel", inner_kernel)
        self.features = positive("PatchPixelCNN: features", features) if features else 0
        self.num_parameters = self.features  # in all, at every patch
        self.side, self.step_size = side, data_channels * side**2  # a patch is drawn at once
        self.patch = patch_mixture.PatchMixture(self.output, num_components, side, data_channels)
        self.layers = GatedStack(self.step_size, channels, num_layers, kernel, inner_kernel, dropout=dropout)
        self.reach = self.layers.reach
        self.head = PatchHead(channels, self.features, head_channels, head_layers, self.patch.num_parameters)

    def feature_shape(self, data_shape: Sequence[int]) -> tuple[int, ...]:
        """``(F, height / side, width / side)`` for images (C, height, width).

        Raises:
            InputError: if data are no images of C channels, or the sides are no multiples of a patch's.
        """
        self.check_images(data_shape)
        return (self.features, *patch_mixture.grid_of(data_shape, self.side, type(self).__name__))

    def forward(self, features: Tensor, event_dim: int = 3) -> AutoregressiveImage:
        """The distribution of images given features ``(..., F, rows, columns)``.

        Raises:
            InputError: for data that are no images, or features of other channels.
        """
        self.check_features(features, event_dim, "rows, columns")
        return AutoregressiveImage(self, features)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """Zeros ``(F, rows, columns)``: what the decoder gives is no parameter of x (:meth:`set_output_bias`)."""
        return mean.new_zeros(self.feature_shape(mean.shape))

    def set_output_bias(self, mean: Tensor) -> None:
        """Let all patches start at the data's mean patch, ``(C, height, width)`` averaged, with components apart."""
        vectors = patches_of(mean, self.side).mean((0, 1))  # (C * side * side,)
        bias = self.patch.initial_bias(vectors.reshape(self.data_channels, self.side, self.side))  # (parameters, 1, 1)
        self.head.set_output_bias(bias.flatten())

    def given_before(self, x: Tensor, features: Tensor) -> PatchMixture:
        """All patches of x ``(..., C, height, width)``, each given those before it and ``(..., F, rows, columns)``."""
        h = apply_batched(self._seen, x, 3)  # (..., M, rows, columns), of the image alone
        if self.features:
            h = h + apply_batched(self.head.given, features, 3)
        return self.patch(apply_batched(self.head, h, 3), 3)

    def _seen(self, x: Tensor) -> Tensor:
        """What the image adds to h_0, ``(batch, M, rows, columns)``."""
        return self.head.seen(self.layers(patches_of(2 * x - 1, self.side).movedim(-1, -3)))

    def steps(self, features: Tensor) -> PatchPixelCNNSteps:
        """A memory of the rows above and of the row that is being drawn."""
        return PatchPixelCNNSteps(self, features)


class PatchHead(nn.Module):
    """1x1 convolutions from what the patches before and the decoder say to the parameters of mixtures.

    Args:
        seen: channels of what the patches before say.
        features: F, channels of what the decoder says; may be 0.
        channels: M.
        num_layers: L.
        num_parameters: of a patch's mixture.
    """

    def __init__(self, seen: int, features: int, channels: int, num_layers: int, num_parameters: int) -> None:
        super().__init__()
        self.seen = nn.Conv2d(seen, channels, 1)
        self.given = AsImages(features, channels) if features else None
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Conv2d(channels, channels, 1), nn.SiLU(), nn.Conv2d(channels, channels, 1))
            for _ in range(num_layers)
        )
        self.activation, self.out = nn.SiLU(), nn.Conv2d(channels, num_parameters, 1)
        nn.init.normal_(self.out.weight, std=0.1 * channels**-0.5)  # near 0, so that x starts at its mean

    def forward(self, h: Tensor) -> Tensor:
        """Parameters ``(batch, num_parameters, rows, columns)`` of h_0, ``(batch, M, rows, columns)``."""
        for block in self.blocks:
            h = h + block(h)
        return self.out(self.activation(h))

    def set_output_bias(self, bias: Tensor) -> None:
        """Let the parameters start at ``(num_parameters,)``."""
        self.out.bias.data.copy_(bias)


class PatchPixelCNNSteps:
    """The distribution of one patch after another; the convolutions compute nothing twice.

    Args:
        network: with the weights that it has now.
        features: ``(batch, F, rows, columns)``.
    """

    def __init__(self, network: PatchPixelCNN, features: Tensor) -> None:
        self.network, self.features, self.width = network, features, features.shape[-1]
        self.stack = network.layers.steps(len(features), self.width)

    def __call__(self, position: int, values: Tensor) -> PatchMixture:
        """The distribution of a patch, ``(batch, C, side, side)``, given ``(batch, N)``, with those before it known."""
        (row, column), size, head = divmod(position, self.width), self.network.step_size, self.network.head
        if position > 0:
            self.stack.put(column - 1, 2 * values[:, (position - 1) * size : position * size] - 1)
        if column == 0:
            self.stack.begin()
        h = head.seen(self.stack.step(column)[:, :, None, None])  # (batch, M, 1, 1)
        if head.given is not None:
            h = h + head.given(self.features[:, :, row : row + 1, column : column + 1])
        return self.network.patch(head(h), 3)
