"""VGG-19 as a frozen network of features, with weights from a file of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from pyro_vae.errors import InputError
from pyro_vae.networks.image_features import FrozenConv, ImageFeatures, Weights, read_weights

WHAT = "VGG-19"
BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))  # convolutions, channels; the image is halved between blocks


class VGGFeatures(ImageFeatures):
    """Features of VGG-19 behind its ReLUs, layers ``relu1_1``, ``relu1_2``, ``relu2_1``, … ``relu5_4``.

    Block b has 64, 128, 256, 512 and 512 channels at 1/2^(b-1) of the image's size. Only what the wanted layers need is
    built. Nothing is downloaded: the weights are a file that is at hand, as torchvision's ``vgg19`` saves them
    (``vgg19-dcbb9e9d.pth``), read without running code.

    Args:
        weights: path of the file.
        layers: names of those whose features are wanted; the paper has these, and relu3_1, relu4_1, relu5_1.

    Raises:
        InputError: for an unknown layer, a file that is not there, and images too small for the layers.
        CorruptFileError: if the file holds no weights of VGG-19.

    Source: Simonyan & Zisserman 2015, arXiv:1409.1556; Hou et al. 2016, arXiv:1610.00291 (the layers).

    Example:
        >>> import torch
        >>> from pyro_vae.networks import VGGFeatures
        >>> torch.save({"features.0.weight": torch.randn(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}, "mine.pth")
        >>> VGGFeatures("mine.pth", ["relu1_1"])(torch.rand(5, 1, 8, 8))["relu1_1"].shape
        torch.Size([5, 64, 8, 8])
    """

    names = tuple(f"relu{b}_{i + 1}" for b, (count, _) in enumerate(BLOCKS, 1) for i in range(count))

    def __init__(self, weights: str, layers: Sequence[str] = ("relu1_1", "relu2_1", "relu3_1")) -> None:
        super().__init__(layers)
        given = Weights(read_weights(weights, WHAT), weights, WHAT)
        self.convs, place, before = nn.ModuleDict(), 0, 3
        for block, (count, channels) in enumerate(BLOCKS, 1):
            for i in range(count):
                if len(self.convs) < self.deepest:
                    weight = given(f"features.{place}.weight", channels, before, 3, 3)
                    bias = given(f"features.{place}.bias", channels)
                    self.convs[f"relu{block}_{i + 1}"] = FrozenConv(weight, bias)
                place, before = place + 2, channels  # a ReLU has a place as well
            place += 1  # and the pooling

    def layers_of(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Layer after layer of normalized images ``(batch, 3, height, width)``.

        Raises:
            InputError: if nothing is left to halve.
        """
        for name, conv in self.convs.items():
            if name.endswith("_1") and name != "relu1_1":
                if min(x.shape[-2:]) < 2:
                    raise InputError(f"the images are too small for layer {name} of {WHAT}: take earlier layers")
                x = max_pool2d(x, 2)
            x = relu(conv(x))
            yield name, x
