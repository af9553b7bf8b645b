"""How much memory a computation takes, measured on a small run of it."""

from __future__ import annotations

import gc
import math
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


def peak_bytes(run: Callable[[], Any]) -> int:
    """Largest number of bytes that the tensors of a computation take at once, which run it once.

    Python's collector of cycles rests meanwhile: when it comes is no property of the computation, and sizes that follow
    from this number are to be the same each time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with PeakMemory() as memory:
            run()
    finally:
        if collecting:
            gc.enable()
    return memory.peak


def bytes_per_row(run: Callable[[int], Any], first: int = 4, last: int = 10_000, most: float = math.inf) -> float:
    """Memory that each further row of a computation costs, by the difference of two small runs.

    Rows are added until they take most of the memory: a computation may have large tensors of its own (weights that are
    made at every call), and the moment when these are alive need not be that of the rows' peak.

    Args:
        run: does the computation for that many rows.
        first: rows of the smaller run.
        last: at most so many rows in the larger one.
        most: bytes that no run but the smallest, of one row, is to take. Where that leaves nothing to compare with, a
            row costs what one row takes by itself.

    Returns:
        bytes per row, at least 1.
    """

    def peak(rows: int) -> int:
        return peak_bytes(lambda: run(rows))

    if most < math.inf:
        with torch.random.fork_rng(devices=[]):  # the stream of an estimate's draws is not to depend on this
            one = peak(1)
        if 3 * one > most:
            return max(float(one), 1.0)
        first = first if 3 * first * one <= most else 1
    few, rows = peak(first), 3 * first
    many = peak(rows)
    while many < 2.5 * few and 4 * rows <= last and many + 3 * rows * (many - few) / (rows - first) <= most:
        rows *= 4
        many = peak(rows)
    return max((many - few) / (rows - first), 1.0)
