"""The machine: devices, private random states, and how much memory a computation takes."""

from __future__ import annotations

import gc
import hashlib
import math
import os
import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vae.errors import InputError, first_line

SEEDS = 2**64  # of torch's generators: as many


def as_device(device: str | torch.device) -> torch.device:
    """A device that can be computed on here; "auto" is a GPU if there is one.

    Raises:
        InputError: for a name that torch does not know, and for a device that this machine has not.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        found = torch.device(name)
    except (RuntimeError, TypeError) as error:
        line = first_line(error)
        raise InputError(f"unknown device {device!r}: 'auto', 'cpu', 'cuda', 'cuda:1', … ({line[:100]})") from error
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise InputError(f"device '{device}': torch sees no GPU here; 'cpu' or 'auto' will do")
        if (found.index or 0) >= count:
            raise InputError(f"device '{device}': there are {count} GPUs here, counted from 0 (cuda:0)")
    elif found.type != "cpu":
        try:
            bool(torch.zeros(1, device=found).isfinite().all())
        except Exception as error:  # each kind of device that is not there fails in its own way
            raise InputError(f"device '{device}' cannot be computed on here; 'cpu' or 'auto' will do") from error
    return found


def check_seed(seed: int) -> int:
    """The seed, if it is one.

    Raises:
        InputError: for anything but an integer from 0 to 2^64 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise InputError(f"seed must be an integer from 0 to 2^64 - 1, got {seed!r}")
    return seed


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed from a few numbers and names, different for different ones."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def same_random_state(*devices: torch.device | None) -> Iterator[list[int]]:
    """Random numbers inside leave the generators of the CPU and of devices as they were.

    Args:
        devices: those that are used inside the block (None: the CPU, which always is).

    Yields:
        the numbers of the CUDA devices among them.
    """
    cuda = sorted({device.index or 0 for device in devices if device is not None and device.type == "cuda"})
    with torch.random.fork_rng(devices=cuda):
        yield cuda


@contextmanager
def private_seed(seed: int, *devices: torch.device | None) -> Iterator[None]:
    """Seed the CPU's generator and those of devices for the length of a block, then put their states back.

    Args:
        seed: of all generators.
        devices: as for :func:`same_random_state`.
    """
    with same_random_state(*devices) as cuda:
        torch.default_generator.manual_seed(seed)
        for index in cuda:  # not torch.manual_seed, which would seed devices that nobody restores
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


class RandomStates:
    """Random states of torch (on the CPU), NumPy and Python that are in force inside a block, and go on in the next.

    Args:
        seed: of all three.
    """

    def __init__(self, seed: int) -> None:
        self.seed: int | None = seed
        self._own: Any = None
        self._outer: Any = None

    def __enter__(self) -> None:
        """Put them in place."""
        self._outer = _random_states()
        if self._own is None:
            torch.random.default_generator.manual_seed(self.seed)
            np.random.seed(self.seed % 2**32)
            random.seed(self.seed)
        else:
            _set_random_states(self._own)

    def __exit__(self, *_: object) -> None:
        """Put the others back."""
        self._own = _random_states()
        _set_random_states(self._outer)


def _random_states() -> tuple[Any, ...]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _set_random_states(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


@cache
def keep_freed_memory() -> None:
    """Let the C library keep freed tensors' memory for the next ones, up to about 60 MB, once per process.

    glibc returns large blocks to the system at every free, so that each new tensor of a few MB costs a page fault
    per 4 kB: up to a third of ``log_likelihood``'s time on a virtual machine. Freeing one block just below its limit
    (32 MB) raises the threshold for good (``mallopt(3)``, M_MMAP_THRESHOLD).
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def shapes_may_follow(tensor: torch.Tensor) -> bool:
    """Whether a shape may depend on a tensor's values at no cost: they are on a CPU, and no graph is being recorded."""
    return tensor.device.type == "cpu" and not isinstance(tensor, FakeTensor)


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


class LimitedMemory(PeakMemory):
    """Ends a computation whose tensors become too large, or too many, before what is written into them takes memory.

    Args:
        most_bytes, most_tensors: alive at once.
        told: what the error says.

    Raises:
        InputError: inside the block.
    """

    def __init__(self, most_bytes: int, most_tensors: int, message: str) -> None:
        super().__init__()
        self.most_bytes, self.most_tensors, self.message = most_bytes, most_tensors, message

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and look at what there is now."""
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if self.live > self.most_bytes or len(self._known) > self.most_tensors:
            raise InputError(self.message)
        return result


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
        with same_random_state():  # the stream of an estimate's draws is not to depend on this
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


def memory_bytes() -> int:
    """How much memory the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


COPIES = 3  # of data in memory, at some moment


def check_room(label: object, nbytes: int, remedy: str = "give fewer data") -> None:
    """Refuse data that this machine's memory could not hold, however small the file that they come from.

    They take three times their size while they are read, split and made numbers that are computed with.

    Args:
        label: the file, and what of it.
        nbytes: of the data.
        remedy: for people.

    Raises:
        InputError: naming the file.
    """
    if COPIES * nbytes > memory_bytes():
        message = f"{COPIES} times {nbytes / 2**30:,.1f} GiB, but this machine has {memory_bytes() / 2**30:,.1f}"
        raise InputError(f"{label}: would take {message}; {remedy}")
