"""Networks of image features that are looked through and never trained, whoever wrote them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError


class FrozenFeatures(nn.Module):
    """A module of image features, frozen: features by layer, for images with any number of leading dimensions.

    The module itself is frozen, not a copy: its parameters get no gradient any more, and it stays in evaluation mode
    (batch statistics do not move), whatever mode the modules around it are in.

    Args:
        module: takes images ``(batch, channels, height, width)`` in [0, 1], and gives a tensor ``(batch, ...)`` of
            features, several in a list or a tuple, or a dict of them by layer.

    Raises:
        InputError: if it is no module.

    Example:
        >>> import torch
        >>> from pyro_vae.programs.image_features import FrozenFeatures
        >>> phi = FrozenFeatures(torch.nn.Conv2d(3, 7, 2, stride=2))
        >>> {layer: tuple(value.shape) for layer, value in phi(torch.rand(4, 5, 3, 8, 8)).items()}
        {'0': (4, 5, 7, 4, 4)}
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise InputError(
                "features must be a module from images to features, such as networks.EfficientNetLite0Features(), got "
                f"{type(module).__name__}"
            )
        self.module = module.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features by layer, ``(..., *shape of the layer)`` each, of images ``(..., channels, height, width)``.

        Raises:
            InputError: for what is no image, and if the module gives anything but features for each image.
        """
        if images.dim() < 3:
            raise InputError(f"features are of images (..., channels, height, width), got {tuple(images.shape)}")
        leading = images.shape[:-3]
        count = math.prod(leading)
        own = next((t.dtype for t in (*self.parameters(), *self.buffers()) if t.is_floating_point()), images.dtype)
        found = self.module(images.reshape(count, *images.shape[-3:]).to(own))
        if isinstance(found, Tensor):
            found = [found]
        if not isinstance(found, Mapping):
            if not isinstance(found, list | tuple):
                raise InputError(f"{self.name} gave {type(found).__name__}, where features by layer are expected")
            found = {str(place): value for place, value in enumerate(found)}
        for layer, value in found.items():
            if not isinstance(value, Tensor) or value.dim() < 2 or len(value) != count:
                got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise InputError(
                    f"layer '{layer}' of {self.name} must have features of each image, ({count}, ...), got {got}"
                )
        if not found:
            raise InputError(f"{self.name} gave no features")
        return {layer: value.reshape(*leading, *value.shape[1:]) for layer, value in found.items()}

    @property
    def name(self) -> str:
        """The module's class."""
        return type(self.module).__name__

    def shapes(self, data_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shapes of one image's features by layer.

        Args:
            data_shape: of an image, (channels, height, width).
        """
        with torch.no_grad():
            return {layer: tuple(value.shape[1:]) for layer, value in self(torch.zeros(1, *data_shape)).items()}
