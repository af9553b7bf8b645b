"""How data are looked at that are no pictures by themselves, or only with what they belong to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyro_vae.data.dataset import Extra

if TYPE_CHECKING:
    from typing import Self


class Pictures(Extra):
    """How a datum and its context become a picture that people look at.

    Colours without their lightness, motions without their scene, clips of several frames: figures, reports and the
    command line draw what :meth:`images` gives. A run keeps its own as ``kind`` and :meth:`plain`.

    Attributes:
        kind: its name in files, ``"lab"``.
    """

    kind: str

    @abstractmethod
    def images(self, x: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Pictures ``(..., 1 or 3, H, W)`` in [0, 1] of data, or of what a model makes of them.

        Args:
            x: ``(..., n, *data_shape)``.
            batch: the n data's context, each ``(n, ...)``.
        """

    def entries(self, pictures: Tensor) -> dict[str, Tensor]:
        """What pictures say of a batch's entries, by name; nothing, if this kind knows no better than that they are it.

        Args:
            pictures: ``(n, 3, H, W)`` in [0, 1].
        """
        return {}

    @abstractmethod
    def plain(self) -> dict[str, Any]:
        """All that it knows, as texts, numbers, lists and mappings: what a file holds."""

    @classmethod
    @abstractmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`plain` gave, made anew of values that are not trusted.

        Raises:
            ValueError, KeyError, TypeError: if they are not such.
        """
