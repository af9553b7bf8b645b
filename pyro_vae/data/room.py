"""Whether data that a file promises fit into memory, asked before anything is allocated."""

from __future__ import annotations

import os

from pyro_vae.errors import InputError


def memory_bytes() -> int:
    """How much memory the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_room(label: object, nbytes: int, remedy: str = "give fewer data") -> None:
    """Refuse data that no memory of this machine could hold, however small the file that they come from.

    Args:
        label: the file, and what of it.
        nbytes: what it would take.
        remedy: for people.

    Raises:
        InputError: naming the file.
    """
    if nbytes > memory_bytes():
        told = f"{nbytes / 2**30:,.1f} GiB, but this machine has {memory_bytes() / 2**30:,.1f}"
        raise InputError(f"{label}: would take {told}; {remedy}")
