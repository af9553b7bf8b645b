"""The gated PixelCNN as a likelihood of images: each pixel given those before it, and the decoder's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae.distributions import AutoregressiveImage
from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.images import ImageLikelihood
from pyro_vae.networks import apply_batched
from pyro_vae.networks.gated import GatedStack, check_kernel
from pyro_vae.networks.layers import check_sizes
from pyro_vae.networks.pixel_head import PixelHead, PixelHeadSteps


class PixelCNN(ImageLikelihood):
    r"""p(x | f) = prod_i p(x_i | x_<i, f): a gated PixelCNN given a decoder's features f; nats.

    Pixels come row by row, the channels of one pixel one after another. Layers of gated convolutions see the image
    alone, without a blind spot: c_i depends on all pixels before i that are in reach. At each pixel a head then joins
    them with the features and with the channels of the pixel that are known, by 1x1 convolutions; of the k-th channel,

    .. math::
        g_1 = \mathrm{gate}(A_k c_i + B_k f_i + \sum_{j<k} V_{kj} x_{ij}), \quad
        g_{l+1} = g_l + R_l\,\mathrm{gate}(W_l g_l), \quad x_{ik} \sim \mathrm{output}(O g_L)

    So what is expensive is computed once for an image, however many draws of the latents the features are of: many
    particles cost the head alone.

    A network that sees all the pixels before needs no latents, and a VAE may come to ignore them; a small receptive
    field (``num_layers=1, kernel=5``) leaves them what is global. What of it they carry is their KL.

    Args:
        output: of each number given the network's: ``Bernoulli``, ``Categorical`` or ``DiscretizedLogisticMixture``;
            Bernoulli if not given.
        features: F, channels of the decoder's features ``(..., F, height, width)``; 0, None: there is no decoder
            (:class:`~pyro_vae.models.PixelModel`).
        data_channels: C of the images.
        channels: of the layers that see the image.
        num_layers: how many.
        kernel: k of the first layer, odd: it sees k // 2 rows above and columns to both sides, and to the left.
        inner_kernel: of the layers after it.
        head_channels: of the head, for each channel of the image.
        head_layers: L.
        condition_layers: give the features to the gates of the layers that see the image, too. These are then
            computed for each particle, which costs many times as much.
        dropout: of the layers that see the image, in training.

    Attributes:
        reach: how many rows and columns away a pixel is still seen.

    Raises:
        InputError: for sizes that cannot be, and for outputs that are no probabilities of single numbers.

    Source: van den Oord et al. 2016, arXiv:1606.05328; as a decoder: Gulrajani et al. 2017, arXiv:1611.05013;
    the receptive field: Chen et al. 2017, arXiv:1611.02731.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import PixelCNN
        >>> likelihood = PixelCNN(features=4, channels=8)
        >>> likelihood.feature_shape((1, 6, 6))
        (4, 6, 6)
        >>> p = likelihood(torch.zeros(7, 5, 4, 6, 6))  # 7 particles
        >>> p.log_prob(torch.ones(5, 1, 6, 6)).shape
        torch.Size([7, 5])
    """

    side = step_size = 1  # number by number

    def __init__(
        self,
        output: Likelihood | None = None,
        features: int | None = 16,
        data_channels: int = 1,
        channels: int = 32,
        num_layers: int = 2,
        kernel: int = 7,
        inner_kernel: int = 3,
        head_channels: int = 32,
        head_layers: int = 2,
        condition_layers: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(output, data_channels)
        sizes = {"channels": channels, "num_layers": num_layers}
        check_sizes("PixelCNN", dropout, **sizes, head_channels=head_channels, head_layers=head_layers)
        check_kernel("PixelCNN: kernel", kernel)
        check_kernel("PixelCNN: inner_kernel", inner_kernel)
        self.features = positive("PixelCNN: features", features) if features else 0
        self.num_parameters = self.features  # in all, at every pixel
        self.condition_layers = condition_layers
        if condition_layers and not self.features:
            raise InputError("PixelCNN: condition_layers needs features to give to the layers; there are none")
        self.layers = GatedStack(
            data_channels,
            channels,
            num_layers,
            kernel,
            inner_kernel,
            features=self.features if condition_layers else None,
            dropout=dropout,
        )
        self.reach = self.layers.reach
        self.head = PixelHead(
            data_channels, channels, self.features, head_channels, head_layers, self.output.num_parameters
        )

    def feature_shape(self, data_shape: Sequence[int]) -> tuple[int, ...]:
        """``(F, height, width)`` for images (C, height, width).

        Raises:
            InputError: if data are no images of C channels.
        """
        self.check_images(data_shape)
        return (self.features, *data_shape[1:])

    def forward(self, features: Tensor, event_dim: int = 3) -> AutoregressiveImage:
        """The distribution of images given features ``(..., F, height, width)``.

        Raises:
            InputError: for data that are no images, or features of other channels.
        """
        self.check_features(features, event_dim, "height, width")
        return AutoregressiveImage(self, features)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """Zeros ``(F, height, width)``: what the decoder gives is no parameter of x (:meth:`set_output_bias`)."""
        return mean.new_zeros(self.feature_shape(mean.shape))

    def set_output_bias(self, mean: Tensor) -> None:
        """Let the network's own output start at the data's mean, ``(C, height, width)``, of each channel."""
        bias = self.output.initial_bias(mean.mean((1, 2), keepdim=True))  # (P * C, 1, 1)
        self.head.set_output_bias(bias.reshape(-1, self.data_channels))

    def given_before(self, x: Tensor, features: Tensor) -> TorchDistribution:
        """All numbers of x ``(..., C, height, width)``, each given those before it and ``(..., F, height, width)``."""
        if self.condition_layers:
            leading = torch.broadcast_shapes(x.shape[:-3], features.shape[:-3])
            flat, given = (t.expand(*leading, *t.shape[-3:]).reshape(-1, *t.shape[-3:]) for t in (x, features))
            gates = self._seen(flat, {"features": given.contiguous(memory_format=torch.channels_last)})
            gates = gates.reshape(*leading, *gates.shape[1:])
        else:
            gates = apply_batched(self._seen, x, 3)  # (..., C * 2M, height, width), of the image alone
        if self.features:
            gates = gates + apply_batched(self.head.given, features, 3)
        return self.output(apply_batched(self.head, gates, 3), 3)

    def _seen(self, x: Tensor, condition: Mapping[str, Tensor] = MappingProxyType({})) -> Tensor:
        """What the image adds to the head's first gates, ``(batch, C * 2M, height, width)``."""
        x = (2 * x - 1).contiguous(memory_format=torch.channels_last)
        return self.head.seen(self.layers(x, condition), x)

    def steps(self, features: Tensor) -> PixelCNNSteps:
        """A memory of the rows above and of the row that is being drawn."""
        return PixelCNNSteps(self, features)


class PixelCNNSteps:
    """The distribution of one number after another; nothing is computed twice.

    Args:
        network: with the weights that it has now.
        features: ``(batch, F, height, width)``.
    """

    def __init__(self, network: PixelCNN, features: Tensor) -> None:
        self.features, (batch, _, _, self.width) = features, features.shape
        self.output, self.channels, self.condition_layers = (
            network.output,
            network.data_channels,
            network.condition_layers,
        )
        self.stack, self.head = network.layers.steps(batch, self.width), PixelHeadSteps(network.head)

    def __call__(self, position: int, values: Tensor) -> TorchDistribution:
        """The distribution of a number, ``(batch, 1)``, given ``(batch, N)``, of which those before it are known."""
        pixel, channel = divmod(position, self.channels)
        row, column = divmod(pixel, self.width)
        if channel == 0:
            if pixel > 0:
                self.stack.put(column - 1, 2 * values[:, position - self.channels : position] - 1)
            if column == 0:
                self._begin(row)
            self.head.begin(self.stack.step(column), column)
        known = 2 * values[:, position - channel : position] - 1  # (batch, k)
        return self.output(self.head(known, channel), 1)

    def _begin(self, row: int) -> None:
        self.stack.begin({"features": self.features[:, :, row : row + 1]} if self.condition_layers else {})
        self.head.begin_row(self.features[:, :, row])
