"""Scenes: two or four objects side by side or one above the other, with a caption that says so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.data.dataset import Data, Extra
from pyro_vae.data.split import Split
from pyro_vae.errors import InputError, unknown

LEFT_OF, ABOVE, GRID = 0, 1, 2  # "a left of b", "a above b", "a and b above c and d"
PLACES = 4  # at most
NUM_OBJECTS = {LEFT_OF: 2, ABOVE: 2, GRID: 4}


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, images: Tensor) -> Tensor:
        """That part of images ``(..., height, width)``, a view."""
        return images[..., self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, eq=False)
class Scenes(Extra):
    """What scenes are made of: objects with names and bitmaps, and where they are put.

    An image is twice as wide and high as an object, and white where there is none. Objects that are two stand in the
    middle of the other direction; four fill the image.

    Args:
        names: of the K objects, in lower case.
        bitmaps: uint8 ``(K, 3, side, side)``, with an even side.

    Raises:
        InputError: for names and bitmaps that do not fit each other, or a name that captions cannot be read with.
    """

    names: tuple[str, ...]
    bitmaps: Tensor

    def __post_init__(self) -> None:
        """Check the bitmaps and the names."""
        shape = tuple(self.bitmaps.shape)
        if self.bitmaps.dtype != torch.uint8 or len(shape) != 4 or shape[:2] != (len(self.names), 3):
            raise InputError(f"bitmaps must be uint8 ({len(self.names)}, 3, side, side), got {shape}")
        if shape[2] != shape[3] or shape[2] % 2:
            raise InputError(f"bitmaps must be square, with an even side, got {shape[2]} x {shape[3]} pixels")
        for name in self.names:
            if re.search(r"\b(and|above|left of)\b", name) or name != " ".join(name.lower().split()):
                raise InputError(f"'{name}' cannot be an object's name: it must be plain lower case, without relations")
        if len(set(self.names)) < len(self.names):
            raise InputError("two objects have the same name")

    def check(self, data: Data) -> None:
        """x are images of such scenes."""
        if data.train.shape != (3, 2 * self.side, 2 * self.side):
            raise InputError(
                f"{data.name}: scenes have shape (3, {2 * self.side}, {2 * self.side}), but one x has shape "
                f"{data.train.shape}"
            )

    def describe(self, train: Split) -> str:
        """The objects' names."""
        return f"scenes of {len(self.names)} objects: {', '.join(self.names)}"

    @property
    def side(self) -> int:
        """Pixels a side of an object; an image has twice as many."""
        return self.bitmaps.shape[-1]

    def boxes(self, layout: int) -> list[Box]:
        """Where the objects of a layout are, in the order of the caption."""
        side, half = self.side, self.side // 2
        corners = {
            LEFT_OF: [(half, 0), (half, side)],
            ABOVE: [(0, half), (side, half)],
            GRID: [(0, 0), (0, side), (side, 0), (side, side)],
        }[layout]
        return [Box(top, left, side, side) for top, left in corners]

    def white(self, layout: int) -> list[Box]:
        """What is left white beside the objects of a layout."""
        side, half = self.side, self.side // 2
        if layout == LEFT_OF:
            return [Box(top, 0, half, 2 * side) for top in (0, side + half)]
        if layout == ABOVE:
            return [Box(0, left, 2 * side, half) for left in (0, side + half)]
        return []

    def draw(self, layout: Tensor, objects: Tensor) -> Tensor:
        """Images of scenes.

        Args:
            layout: int64 ``(N,)``.
            objects: int64 ``(N, 4)``, in the order of the caption; -1 where a layout has fewer.

        Returns:
            uint8 ``(N, 3, 2 * side, 2 * side)``.
        """
        images = self.bitmaps.new_full((len(layout), 3, 2 * self.side, 2 * self.side), 255)
        for kind in NUM_OBJECTS:
            rows = (layout == kind).nonzero()[:, 0]
            for place, box in enumerate(self.boxes(kind)):
                down, across = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
                images[rows, :, down, across] = self.bitmaps[objects[rows, place]]
        return images

    def caption(self, layout: int, objects: list[int]) -> str:
        """The caption of one scene."""
        a, b, *others = [self.names[i] for i in objects[: NUM_OBJECTS[layout]]]
        if layout == GRID:
            return f"{a} and {b} above {others[0]} and {others[1]}"
        return f"{a} {'left of' if layout == LEFT_OF else 'above'} {b}"

    def captions(self, layout: Tensor, objects: Tensor) -> tuple[str, ...]:
        """The captions of scenes, arguments as for :meth:`draw`."""
        return tuple(map(self.caption, layout.tolist(), objects.tolist()))

    def parse(self, captions: list[str] | tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Read captions; the inverse of :meth:`captions`. Case and spaces do not matter.

        Returns:
            layout int64 ``(N,)`` and objects int64 ``(N, 4)``, -1 where a layout has fewer.

        Raises:
            InputError: for a caption of another form, and for an unknown object (with the nearest known one).
        """
        read = [self._parse(caption) for caption in captions]
        rows = [names + [-1] * (PLACES - len(names)) for _, names in read]
        return torch.tensor([kind for kind, _ in read]), torch.tensor(rows).reshape(-1, PLACES)

    def _parse(self, caption: str) -> tuple[int, list[int]]:
        text = " ".join(caption.lower().split())
        beside = text.split(" left of ")
        rows = [row.split(" and ") for row in text.split(" above ")]
        if len(beside) == 2 and len(rows) == 1:
            return LEFT_OF, [self._index(name) for name in beside]
        sizes = tuple(len(row) for row in rows)
        if len(beside) == 1 and sizes in ((1, 1), (2, 2)):
            return (ABOVE if sizes == (1, 1) else GRID), [self._index(name) for row in rows for name in row]
        raise InputError(
            f"'{caption}' describes no scene: write 'A left of B', 'A above B' or 'A and B above C and D' "
            f"with objects such as {', '.join(self.names[:3])}"
        )

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise unknown("object", name, self.names)
        return self.names.index(name)
