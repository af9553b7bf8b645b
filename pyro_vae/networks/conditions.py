"""Encoders and decoders by name, and networks for what a model is conditioned on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError, positive, unknown
from pyro_vae.networks.conv import ConvDecoder, ConvEncoder
from pyro_vae.networks.layers import beside
from pyro_vae.networks.mlp import MLPDecoder, MLPEncoder
from pyro_vae.programs.context import Context, attribute_context, label_context


class Condition(nn.Module):
    """A map from the argument ``y``, one value a datum, to features ``(batch, *places, dim)``.

    Attributes:
        dim: how many features.
        places: sides of the grid at each place of which there are features; (), none, if it is not said.
        accepts: which y are right.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import Condition
        >>> from pyro_vae.programs.context import attribute_context
        >>> class Angle(Condition):  # one number a datum, as sine and cosine
        ...     dim, accepts = 2, attribute_context(1)
        ...     def forward(self, y):
        ...         return torch.cat([y.sin(), y.cos()], -1)
        >>> Angle()(torch.zeros(5, 1)).shape
        torch.Size([5, 2])
    """

    dim: int
    places: tuple[int, ...] = ()
    accepts: Context

    def forward(self, y: Tensor) -> Tensor:
        """The features of y."""
        raise NotImplementedError


class OneHot(Condition):
    """y in {0, ..., K-1} as the unit vector e_y: ``(batch,)`` int64 to ``(batch, K)``.

    Args:
        num_classes: K.

    Raises:
        InputError: if K is not at least 2.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import OneHot
        >>> OneHot(num_classes=3)(torch.tensor([0, 2]))
        tensor([[1., 0., 0.],
                [0., 0., 1.]])
    """

    classes: Tensor

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        if num_classes < 2:
            raise InputError(f"num_classes must be at least 2, got {num_classes}")
        self.dim = num_classes
        self.accepts = label_context(num_classes)
        self.register_buffer("classes", torch.arange(num_classes), persistent=False)
        self.register_buffer("_one", torch.ones(()), persistent=False)  # of the module's floating type

    def forward(self, y: Tensor) -> Tensor:
        """The unit vectors ``(batch, K)``; nothing is asked of a value, so that a step can be recorded."""
        return (y.unsqueeze(-1) == self.classes).to(self._one.dtype)


class Attributes(Condition):
    """A vector of real attributes as it is, ``(batch, A)``.

    Args:
        dim: A.

    Raises:
        InputError: if A is not positive.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import Attributes
        >>> Attributes(dim=40)(torch.zeros(5, 40)).shape
        torch.Size([5, 40])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = positive("dim, the number of attributes,", dim)
        self.accepts = attribute_context(dim)

    def forward(self, y: Tensor) -> Tensor:
        """y itself."""
        return y


NetworkKind = Literal["mlp", "conv"]

_ENCODERS = {"mlp": MLPEncoder, "conv": ConvEncoder}
_DECODERS = {"mlp": MLPDecoder, "conv": ConvDecoder}


def make_encoder(
    kind: NetworkKind | nn.Module,
    data_shape: Sequence[int],
    hidden_dims: Sequence[int],
    out_dim: int,
    activation: str = "tanh",
) -> nn.Module:
    """An encoder ``(..., *data_shape)`` to ``(..., out_dim)``.

    Args:
        kind: ``"mlp"``, ``"conv"``, or a module of one's own, which is returned as it is.
        data_shape: shape of one datum.
        hidden_dims: sizes of the hidden layers, or channels of the stages, in the order of application.
        out_dim: number of features.
        activation: name of the activation.

    Raises:
        InputError: if the kind or activation is unknown, or the shape doesn't suit the kind.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import make_encoder
        >>> make_encoder("conv", (1, 28, 28), (8, 16), 20)(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 20])
    """
    if isinstance(kind, nn.Module):
        return kind
    if kind not in _ENCODERS:
        raise unknown("encoder", kind, _ENCODERS)
    return _ENCODERS[kind](data_shape, hidden_dims, out_dim, activation)


def make_decoder(
    kind: NetworkKind | nn.Module,
    in_dim: int,
    hidden_dims: Sequence[int],
    out_shape: Sequence[int],
    activation: str = "tanh",
) -> nn.Module:
    """A decoder ``(..., in_dim)`` to ``(..., *out_shape)``, with ``set_output_bias``.

    Args:
        kind: ``"mlp"``, ``"conv"``, or a module of one's own, which is returned as it is.
        in_dim: size of a latent vector.
        hidden_dims: sizes of the hidden layers, or channels of the stages, in the order of application
            (so the mirror of an encoder has its ``hidden_dims`` reversed).
        out_shape: shape of one output.
        activation: name of the activation.

    Raises:
        InputError: if the kind or activation is unknown, or the shape doesn't suit the kind.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import make_decoder
        >>> make_decoder("conv", 20, (16, 8), (1, 28, 28))(torch.zeros(5, 20)).shape
        torch.Size([5, 1, 28, 28])
    """
    if isinstance(kind, nn.Module):
        return kind
    if kind not in _DECODERS:
        raise unknown("decoder", kind, _DECODERS)
    return _DECODERS[kind](in_dim, hidden_dims, out_shape, activation)


class ConditionalEncoder(nn.Module):
    """``(..., *data_shape)`` and ``(..., dim)`` to ``(..., out_dim)``.

    ``mlp``: the condition is appended to the flattened data; ``conv``: each of its numbers is a constant plane beside
    the image's channels.

    Args:
        kind: ``"mlp"`` or ``"conv"``.
        data_shape: shape of one datum.
        dim: features of the condition.
        hidden_dims: widths of the layers from data to features (conv: channels).
        out_dim: number of features.
        activation: name of the activation.

    Raises:
        InputError: if the kind or activation is unknown, or the shape doesn't suit the kind.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import ConditionalEncoder
        >>> encoder = ConditionalEncoder("mlp", (1, 8, 8), dim=10, hidden_dims=(16,), out_dim=4)
        >>> encoder(torch.zeros(5, 1, 8, 8), torch.zeros(5, 10)).shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        kind: str,
        data_shape: Sequence[int],
        dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        channels, *rest = data_shape
        self.rank, self.planes = len(data_shape), kind != "mlp"
        joined = (channels + dim, *rest) if self.planes else (math.prod(data_shape) + dim,)
        self.encoder = make_encoder(kind, joined, hidden_dims, out_dim, activation)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """The features ``(..., out_dim)``, of data and conditions whose leading shapes broadcast."""
        if not self.planes:
            return self.encoder(beside(x.flatten(-self.rank), condition))
        shape = torch.broadcast_shapes(x.shape[: x.dim() - self.rank], condition.shape[:-1])
        channels, *sides = x.shape[x.dim() - self.rank :]
        h = condition.reshape(*condition.shape, *(1,) * len(sides))  # (..., dim, 1, 1)
        parts = x.expand(*shape, channels, *sides), h.expand(*shape, condition.shape[-1], *sides)
        return self.encoder(torch.cat(parts, -self.rank))
