"""What a quantizer's options may be."""

from __future__ import annotations

import math

from pyro_vae.errors import InputError, unknown

UPDATES, DISTANCES = ("ema", "gradient"), ("euclidean", "cosine")


def check_options(
    num_codes: int,
    dim: int,
    grid_dim: int,
    update: str,
    decay: float,
    commitment: float,
    distance: str,
    restart_below: float,
) -> None:
    """Check what :class:`~pyro_vae.networks.VectorQuantizer` is given.

    Raises:
        InputError: names what is out of range or unknown.
    """
    if update not in UPDATES:
        raise unknown("update", update, UPDATES)
    if distance not in DISTANCES:
        raise unknown("distance", distance, DISTANCES)
    if num_codes < 1 or dim < 1 or grid_dim < 0:
        raise InputError(
            f"num_codes and dim must be positive and grid_dim not negative, got {num_codes}, {dim} and {grid_dim}"
        )
    if not 0 < decay < 1:
        raise InputError(f"decay must lie between 0 and 1, got {decay}")
    if not 0 <= commitment < math.inf:
        raise InputError(f"commitment must be a number from 0 on, got {commitment}")
    if not 0 <= restart_below < 1:
        raise InputError(f"restart_below is a fraction of the mean count and must lie in [0, 1), got {restart_below}")
    if restart_below and update != "ema":
        raise InputError("restart_below needs update 'ema': a codebook that the optimizer moves is not restarted")


def memory_for_scores(num_codes: int, dim: int, memory_mib: float) -> int:
    """Bytes of the budget that are left for the scores of vectors searched at a time.

    The rest is for scratch tensors of the codebook's size: the centered codebook, the batch's sums and counts.

    Raises:
        InputError: if not even the scores of one vector fit.
    """
    fixed, row = 4 * num_codes * 2 * (dim + 1), 4 * num_codes
    if not fixed + row <= memory_mib * 2**20:
        raise InputError(
            f"{num_codes} codes of {dim} numbers need {(fixed + row) / 2**20:.4g} MiB to search for one vector and to "
            f"gather statistics, memory_mib allows {memory_mib:g}: use fewer codes or raise it"
        )
    return int(memory_mib * 2**20) - fixed
