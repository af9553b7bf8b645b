"""Networks of image features as a command line names them."""

from __future__ import annotations

from torch import nn

from pyro_vae.networks import EfficientNetLite0Features, VGGFeatures


def named_features(layers: str | None, vgg: str | None) -> nn.Module:
    """EfficientNet-Lite0, or VGG-19 with the weights of a file.

    Args:
        layers: their names, with commas between; None: the network's usual ones.
        vgg: path of VGG-19's weights; None: EfficientNet-Lite0.

    Raises:
        InputError: as the networks.
    """
    names = {} if layers is None else {"layers": [name.strip() for name in layers.split(",")]}
    return EfficientNetLite0Features(**names) if vgg is None else VGGFeatures(vgg, **names)
