"""Motions: trajectories of a grid of points over a picture, and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyro_vae.data.dataset import Data
from pyro_vae.data.pictures import Pictures
from pyro_vae.data.split import Split
from pyro_vae.errors import InputError

if TYPE_CHECKING:
    from typing import Self

ENLARGED = 4  # a picture of motions has so many pixels a side for one of the scene
BETWEEN = 4  # points drawn from one frame to the next
STILL = 0.25  # of a cell: points that are less far from their start, in the mean square, are not drawn
EARLY, LATE = (1.0, 1.0, 1.0), (1.0, 0.8, 0.0)  # colours of a path's first and last point


@dataclass(frozen=True)
class Motions(Pictures):
    """x are displacements of a grid of points over the picture ``image``, in its pixels, after 1 … T frames.

    x has shape (2 T, h, w): to the right after every frame, then down. Point (i, j) starts in the middle of cell (i, j)
    of the h x w cells of the picture.

    Args:
        frames: T.

    Raises:
        InputError: if there is none.

    Example:
        >>> import torch
        >>> from pyro_vae.data import Motions
        >>> motions = Motions(frames=5)
        >>> scene, x = torch.zeros(2, 3, 32, 32), torch.ones(7, 2, 10, 8, 8)
        >>> motions.images(x, {"image": scene}).shape  # of 7 futures of each
        torch.Size([7, 2, 3, 128, 128])
    """

    frames: int
    kind: ClassVar[str] = "motion"

    def __post_init__(self) -> None:
        """Check the number."""
        if not isinstance(self.frames, int) or isinstance(self.frames, bool) or self.frames < 1:
            raise InputError(f"motions: frames must be a positive integer, got {self.frames!r}")

    def check(self, data: Data) -> None:
        """x are trajectories, over pictures that their grid fits."""
        for part, split in data.splits.items():
            shape, image = split.shape, split.columns.get("image")
            if len(shape) != 3 or shape[0] != 2 * self.frames:
                raise InputError(
                    f"{data.name}: motions of {self.frames} frames have shape ({2 * self.frames}, h, w), but one x of "
                    f"{part} has {shape}"
                )
            if image is None or len(image.shape) != 3 or image.shape[0] not in (1, 3):
                raise InputError(f"{data.name}: motions need the entry 'image', pictures (n, 1 or 3, H, W), in {part}")
            self._check_grid(shape[1:], image.shape[1:], data.name)

    def describe(self, train: Split) -> str:
        """What the numbers are."""
        return f"x: displacements in pixels after 1 to {self.frames} frames, to the right and down"

    def starts(self, grid: tuple[int, ...], sides: tuple[int, ...]) -> Tensor:
        """Where the points start, in pixels from the left and from the top, ``(2, h, w)``.

        Args:
            grid: (h, w).
            sides: of the picture, (H, W).
        """
        down, right = ((torch.arange(n) + 0.5) * (side / n) for n, side in zip(grid, sides, strict=True))
        return torch.stack([right.expand(grid[0], -1), down[:, None].expand(-1, grid[1])])

    def paths(self, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Where the points are, in pixels from the left and the top, and which of them move.

        Args:
            x: ``(..., 2 T, h, w)``.
            image: ``(..., H, W)``.

        Returns:
            ``(..., 2, T + 1, h, w)``, from their start on; and bool ``(..., h, w)``.
        """
        moved = x.float().unflatten(-3, (2, self.frames))  # (..., 2, T, h, w)
        grid, sides = tuple(x.shape[-2:]), tuple(image.shape[-2:])
        start = self.starts(grid, sides).to(x.device).unsqueeze(1)  # (2, 1, h, w)
        least = STILL * min(side / n for n, side in zip(grid, sides, strict=True))
        moves = moved.square().sum(-4).mean(-3).sqrt() > least
        return torch.cat([start.expand(*moved.shape[:-3], *start.shape[1:]), start + moved], -3), moves

    def images(self, x: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Scenes, four times as large, with the paths of what moves over them, from white to yellow.

        Args:
            x: ``(..., n, 2 T, h, w)``.
            batch: ``image`` ``(n, 1 or 3, H, W)``.

        Returns:
            ``(..., n, 3, 4 H, 4 W)``.

        Raises:
            InputError: for x of another number of frames, or a grid that does not fit the picture.
        """
        image = batch["image"]
        if x.dim() < 4 or x.shape[-3] != 2 * self.frames:
            raise InputError(f"motions of {self.frames} frames have {2 * self.frames} channels, got {tuple(x.shape)}")
        self._check_grid(tuple(x.shape[-2:]), tuple(image.shape[-2:]), "motions")
        large = image.to(x.device).float().expand(-1, 3, -1, -1)
        large = large.repeat_interleave(ENLARGED, -2).repeat_interleave(ENLARGED, -1)
        pictures = large.expand(*x.shape[:-3], *large.shape[-3:]).clone()  # (..., n, 3, 4 H, 4 W)
        height, width = large.shape[-2:]
        flat = pad(pictures.reshape(-1, 3, height * width), (0, 1))  # and a place for what is outside
        paths, moves = self.paths(x, image)
        paths = paths.flatten(-2).reshape(len(flat), 2, self.frames + 1, -1)
        moves = moves.reshape(len(flat), 1, -1)
        steps = self.frames * BETWEEN
        early, late = (torch.tensor(c, device=x.device).view(1, 3, 1) for c in (EARLY, LATE))
        for step in range(steps + 1):  # later points lie over earlier ones
            t, part = divmod(step, BETWEEN)
            now = paths[:, :, t]
            if part:
                now = now + part / BETWEEN * (paths[:, :, t + 1] - now)  # (m, 2, h w)
            colour = early + step / steps * (late - early)
            for across, down in ((0, 0), (0, 1), (1, 0), (1, 1)):  # a point is 2 x 2 pixels
                right = (ENLARGED * now[:, :1]).floor().long() + across - 1
                below = (ENLARGED * now[:, 1:]).floor().long() + down - 1
                inside = moves & (right >= 0) & (right < width) & (below >= 0) & (below < height)
                place = torch.where(inside, below * width + right, height * width).expand(-1, 3, -1)
                flat.scatter_(2, place, colour.expand(place.shape))
        return flat[:, :, :-1].reshape(pictures.shape)

    def plain(self) -> dict[str, Any]:
        """The number of frames."""
        return {"frames": self.frames}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`plain` gave.

        Raises:
            ValueError: if it is no such thing.
        """
        return cls(values["frames"])

    def _check_grid(self, grid: tuple[int, ...], sides: tuple[int, ...], name: str) -> None:
        if any(side % n for n, side in zip(grid, sides, strict=True)):
            raise InputError(
                f"{name}: a grid of {grid[0]} x {grid[1]} points does not fit a picture of {sides[0]} x {sides[1]} "
                "pixels: its sides must divide the picture's"
            )


def mirrored(x: Tensor) -> Tensor:
    """Trajectories ``(..., 2 T, h, w)`` of the mirror image, left and right exchanged.

    With the picture's ``image.flip(-1)`` what is true of a scene and its motion is true of the mirrored ones, where the
    world has no handedness: it is half of a data set more.
    """
    right, down = x.flip(-1).chunk(2, -3)
    return torch.cat([-right, down], -3)
