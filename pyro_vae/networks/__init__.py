"""Deterministic modules; all accept any number of leading batch dimensions."""

from pyro_vae.networks.conditions import (
    Attributes,
    Condition,
    ConditionalEncoder,
    NetworkKind,
    OneHot,
    make_decoder,
    make_encoder,
)
from pyro_vae.networks.conv import ConvDecoder, ConvEncoder
from pyro_vae.networks.layers import activation, apply_batched
from pyro_vae.networks.mlp import MLP, MLPDecoder, MLPEncoder
from pyro_vae.networks.quantizer import Quantized, VectorQuantizer
from pyro_vae.networks.text_encoder import TextEncoder

__all__ = [
    "MLP",
    "Attributes",
    "Condition",
    "ConditionalEncoder",
    "ConvDecoder",
    "ConvEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "NetworkKind",
    "OneHot",
    "Quantized",
    "TextEncoder",
    "VectorQuantizer",
    "activation",
    "apply_batched",
    "make_decoder",
    "make_encoder",
]
