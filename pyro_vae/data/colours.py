"""Colours as lightness and two opponent colours (CIE Lab), and how they are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.binarization import as_probability
from pyro_vae.data.dataset import Data
from pyro_vae.data.pictures import Pictures
from pyro_vae.data.split import Split
from pyro_vae.errors import InputError
from pyro_vae.runtime import check_room

LIGHTNESS, COLOUR = 100.0, 128.0  # units of what a batch holds: L / 100 in [0, 1], a / 128 and b / 128
TO_XYZ = (  # of linear sRGB, IEC 61966-2-1: red, green, blue
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)  # D65, 2 degrees
LINEAR, SLOPE = 0.04045, 12.92  # sRGB's straight piece
DELTA = 6 / 29  # Lab's: f(t) = t / (3 delta^2) + 4/29 up to delta^3, the cube root above
CHUNK = 1 << 20  # numbers converted at once


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB to CIE Lab, white D65 at 2 degrees.

    Args:
        rgb: ``(..., 3, H, W)`` in [0, 1].

    Returns:
        L in [0, 100], a and b, ``(..., 3, H, W)``.

    Source: CIE 15:2004; IEC 61966-2-1:1999.

    Example:
        >>> import torch
        >>> from pyro_vae.data import rgb_to_lab
        >>> rgb_to_lab(torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)).flatten().round()  # red
        tensor([53., 80., 67.])
    """
    linear = torch.where(rgb <= LINEAR, rgb / SLOPE, ((rgb + 0.055) / 1.055).clamp(min=0) ** 2.4)
    t = _mixed(linear, torch.tensor(TO_XYZ, dtype=torch.float64)) / _column(WHITE, rgb)
    f = torch.where(t > DELTA**3, t.clamp(min=DELTA**3) ** (1 / 3), t / (3 * DELTA**2) + 4 / 29)
    x, y, z = f.unbind(-3)  # (..., H, W)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -3)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """CIE Lab to sRGB, where a colour that no screen has is clipped (:func:`outside_gamut` tells which).

    Args:
        lab: ``(..., 3, H, W)``, L in [0, 100].

    Returns:
        ``(..., 3, H, W)`` in [0, 1].

    Example:
        >>> import torch
        >>> from pyro_vae.data import lab_to_rgb, rgb_to_lab
        >>> rgb = torch.rand(2, 3, 4, 4)
        >>> torch.allclose(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=1e-4)
        True
    """
    linear = _linear(lab).clamp(0, 1)
    return torch.where(linear <= LINEAR / SLOPE, linear * SLOPE, 1.055 * linear.clamp(min=1e-9) ** (1 / 2.4) - 0.055)


def outside_gamut(lab: Tensor, tolerance: float = 1e-3) -> Tensor:
    """Which pixels have a colour that sRGB has not, so that :func:`lab_to_rgb` clips it.

    Args:
        lab: ``(..., 3, H, W)``.
        tolerance: how far linear red, green or blue may leave [0, 1].

    Returns:
        bool ``(..., H, W)``.

    Example:
        >>> import torch
        >>> from pyro_vae.data import outside_gamut
        >>> outside_gamut(torch.tensor([50.0, 0.0, 120.0]).view(3, 1, 1))  # no such yellow is so dark
        tensor([[True]])
    """
    linear = _linear(lab)
    return ((linear < -tolerance) | (linear > 1 + tolerance)).any(-3)


def _linear(lab: Tensor) -> Tensor:
    """Linear sRGB ``(..., 3, H, W)``, which may leave [0, 1]."""
    light, a, b = lab.unbind(-3)
    y = (light + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], -3)
    t = torch.where(f > DELTA, f**3, 3 * DELTA**2 * (f - 4 / 29))
    return _mixed(t * _column(WHITE, lab), torch.tensor(TO_XYZ, dtype=torch.float64).inverse())


def _mixed(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,...jhw->...ihw", matrix.to(x), x)


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(3, 1, 1)


def coloured(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Colour images as what a model of colours given lightness is trained on.

    Args:
        tensors: x ``(N, 3, H, W)``, uint8 or in [0, 1], and others, which stay.
        name: what errors call the data.

    Returns:
        x = (a, b) / 128 float32 ``(N, 2, H, W)`` and image = L / 100 float32 ``(N, 1, H, W)`` in place of x.

    Raises:
        InputError: for data that are no colour images, have an image of their own, or would not fit the memory.
    """
    x = tensors["x"]
    if "image" in tensors:
        raise InputError(
            f"{name}: colours make the entry 'image' of x, its lightness, and these data have an 'image' of their own: "
            "leave colours out, or take data without it"
        )
    if x.dim() != 4 or x.shape[1] != 3:
        kind = "grey images, which have none" if x.dim() == 4 and x.shape[1] == 1 else "no images of three channels"
        raise InputError(
            f"{name}: colours are of colour images (3, height, width), and one x has shape "
            f"{tuple(x.shape[1:])}: {kind}; leave colours out"
        )
    if not (x.dtype == torch.uint8 or (x.is_floating_point() and 0 <= float(x.min()) <= float(x.max()) <= 1)):
        raise InputError(
            f"{name}: colours are of images in 256 levels, or from 0 to 1, and x is {x.dtype}"
            + (f" from {x.min():g} to {x.max():g}" if x.is_floating_point() else "")
        )
    n, _, height, width = x.shape
    check_room(f"{name}: colours", 4 * x.numel(), "give a limit or a smaller image_size")
    ab, light = torch.empty(n, 2, height, width), torch.empty(n, 1, height, width)
    step = max(1, CHUNK // x[0].numel())
    for start in range(0, n, step):
        some = x[start : start + step]
        lab = rgb_to_lab(as_probability(some).float())
        light[start : start + step], ab[start : start + step] = lab[:, :1] / LIGHTNESS, lab[:, 1:] / COLOUR
    return {**tensors, "x": ab, "image": light.clamp(0, 1)}


class LabPictures(Pictures):
    """Colours x = (a, b) / 128 with the lightness ``image`` = L / 100 that they belong to, as RGB.

    Example:
        >>> import torch
        >>> from pyro_vae.data import LabPictures
        >>> LabPictures().images(torch.zeros(5, 2, 8, 8), {"image": torch.full((5, 1, 8, 8), 0.5)}).shape
        torch.Size([5, 3, 8, 8])
    """

    kind = "lab"

    def check(self, data: Data) -> None:
        """x has two channels, and there is an image of one, of its size."""
        for split in data.splits.values():
            x, image = split.shape, split.columns["image"].shape if "image" in split.columns else None
            if len(x) != 3 or x[0] != 2 or image != (1, *x[1:]):
                raise InputError(
                    f"{split.name}: colours have x of shape (2, height, width) and image of shape "
                    f"(1, height, width), got {x} and {image}"
                )

    def describe(self, train: Split) -> str:
        """What x and image are."""
        return "x = (a, b) / 128 of CIE Lab, given image = L / 100"

    def images(self, x: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """RGB ``(..., n, 3, H, W)`` of colours ``(..., n, 2, H, W)``; what no screen has is clipped."""
        return lab_to_rgb(self.lab(x, batch))

    def lab(self, x: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """L, a and b, ``(..., n, 3, H, W)``, of colours ``(..., n, 2, H, W)`` and the batch's image."""
        image = batch["image"].to(x)
        return torch.cat([LIGHTNESS * image.expand(*x.shape[:-3], *image.shape[-3:]), COLOUR * x], -3)

    def entries(self, pictures: Tensor) -> dict[str, Tensor]:
        """The colours x and the lightness ``image`` of pictures ``(n, 3, H, W)``."""
        return coloured({"x": pictures}, "pictures")

    def plain(self) -> dict[str, Any]:
        """Nothing: there is one such kind of pictures."""
        return {}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> LabPictures:
        """The one kind that there is."""
        if values:
            raise ValueError(f"colours' pictures have no {', '.join(map(str, values))}")
        return cls()
