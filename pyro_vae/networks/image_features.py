"""Frozen networks that give features of images, layer by layer, for perceptual losses: what they share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from pyro_vae.errors import CorruptFileError, InputError, first_line, unknown

IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of its photographs' channels, in [0, 1]


class ImageFeatures(nn.Module):
    r"""phi(x): features of images by layer, of a network that was trained elsewhere and never changes.

    Images are in [0, 1], grey or RGB (grey ones are repeated to three channels), and are normalized as the photographs
    of ImageNet were: (x - mean) / sd by channel. Weights are buffers, and batch normalization is a part of them: there
    is nothing to train and nothing that depends on training mode.

    A subclass gives :meth:`layers_of`.

    Args:
        layers: names of those whose features are wanted, of ``names``.

    Attributes:
        names: of all layers, the first ones first.

    Raises:
        InputError: for an unknown layer, one that is named twice, or none.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import ImageFeatures
        >>> class Brightness(ImageFeatures):
        ...     names = ("mean", "half")
        ...     def layers_of(self, x):  # (batch, 3, height, width), normalized
        ...         yield "mean", x.mean((1, 2, 3))
        ...         yield "half", torch.nn.functional.avg_pool2d(x, 2)
        >>> {layer: tuple(value.shape) for layer, value in Brightness(["half"])(torch.rand(5, 1, 8, 8)).items()}
        {'half': (5, 3, 4, 4)}
    """

    names: ClassVar[tuple[str, ...]]
    mean: Tensor
    sd: Tensor

    def __init__(self, layers: Sequence[str]) -> None:
        super().__init__()
        if isinstance(layers, str):
            layers = (layers,)
        for layer in layers:
            if layer not in self.names:
                raise unknown(f"layer of {type(self).__name__}", layer, self.names)
        if not layers or len(set(layers)) < len(layers):
            raise InputError(f"layers must name different layers of {type(self).__name__}, got {list(layers)}")
        self.layers = tuple(name for name in self.names if name in layers)
        for name, values in (("mean", IMAGENET_MEAN), ("sd", IMAGENET_SD)):
            self.register_buffer(name, torch.tensor(values).reshape(3, 1, 1), persistent=False)

    @property
    def deepest(self) -> int:
        """How many layers must be there for the wanted ones."""
        return self.names.index(self.layers[-1]) + 1

    def layers_of(self, x: Tensor) -> Any:
        """Layer after layer of normalized images ``(batch, 3, height, width)``: pairs of its name and its features."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features of images ``(..., 1 or 3, height, width)`` in [0, 1].

        Returns:
            by layer, ``(..., *shape of the layer)``, in the network's order.

        Raises:
            InputError: for what is no image of one or three channels.
        """
        if x.dim() < 3 or x.shape[-3] not in (1, 3):
            raise InputError(
                f"{type(self).__name__} takes images (..., 1 or 3, height, width), got shape {tuple(x.shape)}"
            )
        leading = x.shape[:-3]
        images = x.reshape(-1, *x.shape[-3:])
        images = (images.expand(-1, 3, -1, -1) - self.mean) / self.sd
        found = {}
        for name, value in self.layers_of(images):
            if name in self.layers:
                found[name] = value.reshape(*leading, *value.shape[1:])
            if len(found) == len(self.layers):
                break
        return found


class FrozenConv(nn.Module):
    """A convolution that never changes, with "same" padding: ``(batch, in, height, width)`` to ``(batch, out, …)``.

    Args:
        weight: ``(out, in / groups, k, k)``, k odd.
        bias: ``(out,)``.
        stride: of the convolution.
        groups: of channels that see each other.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())
        self.stride, self.groups = stride, groups

    def forward(self, h: Tensor) -> Tensor:
        """The convolution."""
        return conv2d(h, self.weight, self.bias, self.stride, self.weight.shape[-1] // 2, 1, self.groups)


def read_weights(path: str | Path, what: str) -> dict[str, Tensor]:
    """Tensors by name out of a file of weights, which runs no code.

    Args:
        path: the file.
        what: the network's name, for the errors.

    Raises:
        InputError: if it is not there.
        CorruptFileError: if it holds anything but tensors by name.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"weights of {what}: {path} is not there, or no file")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the reader fail in many ways
        raise CorruptFileError(f"{path} cannot be read as weights of {what}: {first_line(error)}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CorruptFileError(f"{path} holds no weights of {what}: a mapping of names to tensors is expected")
    return found


class Weights:
    """Weights of a file, each asked for by its name and shape.

    Args:
        found: tensors by name.
        path: of the file, for the errors.
        what: the network's name.
    """

    def __init__(self, found: dict[str, Tensor], path: str | Path, what: str) -> None:
        self.found, self.path, self.what = found, path, what

    def __call__(self, name: str, *shape: int) -> Tensor:
        """The tensor of that name.

        Raises:
            CorruptFileError: if it is not there, has another shape, or numbers that are none.
        """
        value = self.found.get(name)
        if value is None or tuple(value.shape) != shape or not _plain(value):
            got = "nothing of that name" if value is None else f"shape {tuple(value.shape)} of {_kind(value)}"
            raise CorruptFileError(f"{self.path} are no weights of {self.what}: '{name}' {shape} expected, got {got}")
        if not bool(value.isfinite().all()):
            raise CorruptFileError(f"{self.path}: '{name}' has numbers that are not finite")
        return value.float()


def _plain(value: Tensor) -> bool:
    """Whether these are real numbers, all of them there."""
    return value.is_floating_point() and value.layout == torch.strided and value.device.type == "cpu"


def _kind(value: Tensor) -> str:
    return " ".join(str(each) for each in (value.layout, value.dtype, value.device))
