"""Encoders and decoders by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from pyro_vae.errors import unknown
from pyro_vae.networks.conv import ConvDecoder, ConvEncoder
from pyro_vae.networks.mlp import MLPDecoder, MLPEncoder

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
    """
    if isinstance(kind, nn.Module):
        return kind
    if kind not in _DECODERS:
        raise unknown("decoder", kind, _DECODERS)
    return _DECODERS[kind](in_dim, hidden_dims, out_shape, activation)
