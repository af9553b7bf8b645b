"""What the axes of an array of data are: said, or told from the shape."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from pyro_vae.errors import InputError, unknown

logger = logging.getLogger(__name__)
Layout = Literal["NHW", "NCHW", "NHWC", "NCL"]
LAYOUTS: dict[str, str] = {  # what becomes of x, (N, ...)
    "NHW": "grey images, (N, height, width)",
    "NCHW": "images with channels first, (N, channels, height, width)",
    "NHWC": "images with channels last, (N, height, width, channels)",
    "NCL": "signals, (N, channels, length)",
}
COLOURS = (1, 3)  # numbers of channels that images usually have


def with_channels(arrays: Mapping[str, Tensor], labels: Mapping[str, str], layout: Layout | None) -> dict[str, Tensor]:
    """Bring data to the axes that the package has: vectors (N, D), signals (N, C, L), images (N, C, H, W).

    Without a layout, three axes are grey images; four are images with channels last if the last axis is 1 or 3 and the
    second is not, else with channels first. Where another reading is as good, one line of the log says which was taken.

    Args:
        arrays: the data, by name: of one dataset, so read alike.
        labels: what errors and the log call them, the file and the array.
        layout: what the axes are.

    Raises:
        InputError: naming the array, for an unknown layout, one of another number of axes, and arrays of one axis or
            more than four.
    """
    if layout is not None and layout not in LAYOUTS:
        raise unknown("layout", str(layout), LAYOUTS)
    for name, x in arrays.items():
        if not 2 <= x.dim() <= 4:
            raise InputError(
                f"{labels[name]} has shape {tuple(x.shape)}; expected (N, D), (N, H, W), (N, C, H, W) or "
                "(N, H, W, 1 or 3)"
            )
        if layout is not None and x.dim() != len(layout):
            raise InputError(
                f"{labels[name]} has shape {tuple(x.shape)}, but layout {layout} is {LAYOUTS[layout]}; say another one"
            )
    if not arrays:
        return {}
    first = next(iter(arrays))
    shape = tuple(arrays[first].shape)
    if layout is None:
        layout = _likely(shape)
        if layout is not None and _another_is_as_good(shape):
            others = ", ".join(other for other in LAYOUTS if len(other) == len(shape) and other != layout)
            logger.info("%s: shape %s read as %s; else say layout=%s", labels[first], shape, LAYOUTS[layout], others)
    return {name: _moved(x, layout) for name, x in arrays.items()}


def _likely(shape: tuple[int, ...]) -> Layout | None:
    if len(shape) == 3:
        return "NHW"
    if len(shape) == 4:
        return "NHWC" if shape[3] in COLOURS and shape[1] not in COLOURS else "NCHW"
    return None


def _another_is_as_good(shape: tuple[int, ...]) -> bool:
    """Of three axes one could be channels; of four the second and the last could be so alike."""
    few = [size in COLOURS for size in shape[1:]]
    return any(few) if len(shape) == 3 else few[0] == few[2]


def _moved(x: Tensor, layout: Layout | None) -> Tensor:
    if layout == "NHW":
        return x.unsqueeze(1)
    return x.movedim(-1, 1).contiguous() if layout == "NHWC" else x
