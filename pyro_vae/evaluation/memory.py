"""How much memory a computation takes, measured on a small run of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Largest number of bytes in tensors that came into being inside this block, on any device.

    Counts what operators return, by storage, as long as it is alive; an operator's own scratch space is not seen, and
    tensors without numbers (of a recording) are not counted.

    Attributes:
        peak: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count the storages that it made."""
        before = {self._key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and not isinstance(tensor, FakeTensor):
                storage = tensor.untyped_storage()
                key = self._key(tensor)
                if key in before or key in self._known or storage.nbytes() == 0:
                    continue
                self._known.add(key)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._freed, key, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    @staticmethod
    def _key(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def bytes_per_row(run: Callable[[int], Any], rows: tuple[int, int] = (4, 12)) -> float:
    """Memory that each further row of a computation costs, by the difference of two small runs.

    Args:
        run: does the computation for that many rows.
        rows: the two sizes.

    Returns:
        bytes per row, at least 1.
    """
    peaks = []
    for size in rows:
        with PeakMemory() as memory:
            run(size)
        peaks.append(memory.peak)
    return max((peaks[1] - peaks[0]) / (rows[1] - rows[0]), 1.0)
