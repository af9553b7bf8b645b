"""Strided convolutional networks for images of any size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.networks.layers import activation as make_activation
from pyro_vae.networks.layers import apply_batched, check_event_shape
from pyro_vae.networks.mlp import glorot_, set_bias_


def halved_sizes(shape: tuple[int, ...], stages: int, who: str) -> list[tuple[int, int]]:
    """The image sizes that ``stages`` stride-2 convolutions pass through, rounding up, finest first.

    Args:
        shape: ``(C, H, W)``.
        stages: number of halvings.
        who: the network, for the message.

    Returns:
        ``stages + 1`` pairs (height, width).

    Raises:
        InputError: if the shape is not an image's, there is no stage, or nothing is left to halve.
    """
    if len(shape) != 3:
        raise InputError(f"{who}: a conv network needs a shape (C, H, W), got {shape}; use kind 'mlp' for it")
    if stages < 1:
        raise InputError(f"{who}: hidden_dims must name the channels of at least one stage, got none")
    if min(shape[1:]) <= 2 ** (stages - 1):
        raise InputError(
            f"{who}: an image of {shape[1]}x{shape[2]} is too small for {stages} stages that halve it; "
            f"its sides must exceed {2 ** (stages - 1)}, or hidden_dims must be shorter"
        )
    sizes = [(shape[1], shape[2])]
    for _ in range(stages):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


class ConvEncoder(nn.Module):
    """3x3 convolutions of stride 2 and a linear head: ``(..., C, H, W)`` to ``(..., out_dim)``.

    Every stage halves the image, rounding up, so that all sizes are welcome.

    Args:
        data_shape: ``(C, H, W)``.
        hidden_dims: channels after each stage, the finest first.
        out_dim: number of features.
        activation: name of the activation.

    Raises:
        InputError: if the image is too small for the stages, or the activation is unknown.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import ConvEncoder
        >>> ConvEncoder((3, 28, 28), hidden_dims=(8, 16), out_dim=20)(torch.zeros(5, 3, 28, 28)).shape
        torch.Size([5, 20])
    """

    def __init__(
        self, data_shape: Sequence[int], hidden_dims: Sequence[int], out_dim: int, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        coarsest = halved_sizes(self.data_shape, len(hidden_dims), "encoder")[-1]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise([self.data_shape[0], *hidden_dims]):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), make_activation(activation)]
        self.stages = nn.Sequential(*layers)
        self.head = nn.Linear(hidden_dims[-1] * math.prod(coarsest), out_dim)
        self.apply(glorot_)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(..., C, H, W)`` to features ``(..., out_dim)``.

        Raises:
            InputError: if the trailing shape of ``x`` is not ``data_shape``.
        """
        check_event_shape(x, self.data_shape, "encoder")
        return apply_batched(lambda images: self.head(self.stages(images).flatten(1)), x, 3)


class ConvDecoder(nn.Module):
    """A linear layer and 4x4 transposed convolutions of stride 2: ``(..., in_dim)`` to ``(..., C, H, W)``.

    The mirror of :class:`ConvEncoder`: it retraces the same image sizes (a stage that would come out one
    pixel too large, because the encoder rounded up, is cropped). The output has a learned bias per channel
    and pixel.

    Args:
        in_dim: size of a latent vector.
        hidden_dims: channels before each stage, in the order of application, so the *coarsest first*: the
            mirror of an encoder with ``(32, 64)`` has ``(64, 32)``.
        out_shape: ``(C, H, W)``.
        activation: name of the activation.

    Raises:
        InputError: if the image is too small for the stages, or the activation is unknown.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import ConvDecoder
        >>> ConvDecoder(20, hidden_dims=(16, 8), out_shape=(3, 28, 28))(torch.zeros(5, 20)).shape
        torch.Size([5, 3, 28, 28])
    """

    def __init__(
        self, in_dim: int, hidden_dims: Sequence[int], out_shape: Sequence[int], activation: str = "relu"
    ) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.out_shape = tuple(out_shape)
        self.sizes = halved_sizes(self.out_shape, len(hidden_dims), "decoder")[::-1]  # coarsest first
        self.first = nn.Linear(in_dim, hidden_dims[0] * math.prod(self.sizes[0]))
        self.first_shape = (hidden_dims[0], *self.sizes[0])
        self.stages = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
            for before, after in itertools.pairwise(hidden_dims)
        )
        self.last = nn.ConvTranspose2d(hidden_dims[-1], self.out_shape[0], 4, stride=2, padding=1, bias=False)
        self.activation = make_activation(activation)
        self.bias = nn.Parameter(torch.zeros(self.out_shape))
        self.apply(glorot_)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents ``(..., in_dim)`` to outputs ``(..., C, H, W)``.

        Raises:
            InputError: if the last dimension of ``z`` is not ``in_dim``.
        """
        check_event_shape(z, (self.in_dim,), "decoder")
        return apply_batched(self._decode, z, 1)

    def _decode(self, z: Tensor) -> Tensor:
        h = self.first(z).reshape(-1, *self.first_shape)  # (batch, channels, height, width)
        for stage, (height, width) in zip([*self.stages, self.last], self.sizes[1:], strict=True):
            h = stage(self.activation(h))[..., :height, :width]
        return h + self.bias

    def set_output_bias(self, bias: Tensor) -> None:
        """Set the bias map of the output, shape ``out_shape``.

        Raises:
            InputError: if the bias has another shape.
        """
        set_bias_(self.bias, bias, self.out_shape)
