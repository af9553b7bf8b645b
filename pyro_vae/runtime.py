"""The process around a computation: private random states, memory that is kept for reuse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch


@contextmanager
def private_seed(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the CPU's generator and the device's for the length of a block, then put their states back.

    Args:
        seed: of both generators.
        device: a device that is used inside the block (None: the CPU only).
    """
    cuda = [device.index or 0] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@cache
def keep_freed_memory() -> None:
    """Let the C library keep freed tensors' memory for the next ones, up to about 60 MB, once per process.

    glibc returns large blocks to the system at every free, so that each new tensor of a few MB costs a page fault
    per 4 kB: up to a third of ``log_likelihood``'s time on a virtual machine. Freeing one block just below its limit
    (32 MB) raises the threshold for good (``mallopt(3)``, M_MMAP_THRESHOLD).
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)
