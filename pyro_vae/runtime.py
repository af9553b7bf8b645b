"""The process around a computation: its device, private random states, memory that is kept for reuse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from pyro_vae.errors import InputError

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
        line = (str(error).splitlines() or [""])[0]
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
