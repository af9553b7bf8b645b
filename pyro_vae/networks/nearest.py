"""The nearest code of each vector, found without the whole table of distances."""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 2**20  # bytes of scores on a CPU: what is searched should still be in its cache
MOST_TILES = 64  # a recorded step holds every tile's operations


def nearest_codes(rows: Tensor, vectors: Tensor, memory: int) -> Tensor:
    r"""The nearest vector of a codebook for each row.

    .. math:: \arg\min_k |z - e_k|^2 = \arg\max_k \; z \cdot (e_k - c) - \tfrac12 (e_k - c) \cdot (e_k + c)

    for any c; it is the codebook's mean, so that little is lost to rounding where vectors are far from the origin. The
    scores are computed for as many rows at a time as the memory allows. Nothing is kept for a gradient.

    Args:
        rows: ``(rows, dim)``.
        vectors: ``(num_codes, dim)``, of the same type.
        memory: bytes that the scores of the rows searched at a time may take.

    Returns:
        codes, int64 ``(rows,)``; of equally near ones the first.
    """
    rows, vectors = rows.detach(), vectors.detach()
    center = vectors.mean(0)
    offset = vectors - center  # (num_codes, dim)
    shift = torch.linalg.vecdot(offset, vectors + center).mul_(-0.5)  # (num_codes,)
    tiles = rows.split(rows_at_a_time(rows, len(vectors), memory))
    return torch.cat([torch.addmm(shift, tile, offset.t()).max(1).indices for tile in tiles])


def rows_at_a_time(rows: Tensor, num_codes: int, memory: int) -> int:
    """How many rows' scores are computed together: what fits, on a CPU what its cache holds."""
    size = num_codes * rows.element_size()  # bytes of one row's scores
    best = max(TILE // size, -(-len(rows) // MOST_TILES)) if rows.device.type == "cpu" else len(rows)
    return max(1, min(best, memory // size))
