"""Lloyd's algorithm, and the nearest code of each vector, within a memory budget."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

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


MOST_ROUNDS = 20
PORTIONS = 16  # of the starting vectors
ROWS_PER_CODE = 256  # more say little about a mean, and cost as much as the rest
SAME = 1e-10  # squared distance, relative to the row's own length: what rounding of a mean leaves
JITTER = 0.1  # of the rows' spread: how far codes without any row of their own are from one


@torch.no_grad()
def k_means(rows: Tensor, num_codes: int, memory: int, spherical: bool = False) -> tuple[Tensor, Tensor]:
    r"""Vectors whose mean squared distance to the rows is (locally) smallest, and how many rows each is the nearest of.

    .. math:: c_i = \arg\min_k |z_i - e_k|^2, \quad e_k = \mathrm{mean}\{z_i : c_i = k\}

    It starts at rows that are drawn in 16 portions, each in proportion to the squared distance to the vectors drawn
    before. After each round, codes without rows are moved to rows drawn in the same way. At most 20 rounds, at most 256
    rows a code (drawn at random). Random numbers are from torch's generator. Where there are fewer different rows than
    codes, the rest is scattered around rows, and has count 0.

    Args:
        rows: ``(rows, dim)``, at least one.
        num_codes: how many vectors.
        memory: bytes for the scores of the rows searched at a time.
        spherical: rows have length 1, and so shall the vectors.

    Returns:
        vectors ``(num_codes, dim)`` and counts ``(num_codes,)``.

    Source: Lloyd 1982; Arthur & Vassilvitskii 2007 (k-means++); Bahmani et al. 2012, arXiv:1203.6402 (in portions).
    """
    order = torch.randperm(len(rows), device=rows.device)
    rows = rows[order[: ROWS_PER_CODE * num_codes]]
    vectors = _start(rows, num_codes, memory, spherical)
    codes, counts = _assign(rows, vectors, memory)
    for _ in range(MOST_ROUNDS):
        before = codes
        vectors = torch.zeros_like(vectors).index_add_(0, codes, rows) / counts.clamp(min=1)[:, None]
        vectors = normalize(vectors, dim=1) if spherical else vectors
        empty = (counts == 0).nonzero().flatten()
        taken = _far_rows(rows, vectors[codes], len(empty))
        rest = _scattered(rows, len(empty) - len(taken), spherical)
        vectors[empty] = torch.cat([rows[taken], rest])
        codes, counts = _assign(rows, vectors, memory)
        if torch.equal(codes, before):
            break
    return vectors, counts


def _start(rows: Tensor, num_codes: int, memory: int, spherical: bool) -> Tensor:
    vectors, portions = rows[:1], min(PORTIONS, num_codes)
    for last in range(1, portions + 1):
        number = num_codes * last // portions - len(vectors)  # to be drawn now
        taken = _far_rows(rows, vectors[nearest_codes(rows, vectors, memory)], number)
        vectors = torch.cat([vectors, rows[taken]])
    return torch.cat([vectors, _scattered(rows, num_codes - len(vectors), spherical)])


def _assign(rows: Tensor, vectors: Tensor, memory: int) -> tuple[Tensor, Tensor]:
    codes = nearest_codes(rows, vectors, memory)
    return codes, torch.zeros_like(vectors[:, 0]).index_add_(0, codes, torch.ones_like(rows[:, 0]))


def _far_rows(rows: Tensor, own: Tensor, number: int) -> Tensor:
    """Indices of at most that many rows that are not where their code is, drawn in proportion to squared distance."""
    distance = (rows - own).square_().sum(1)
    away = int((distance > SAME * rows.square().sum(1)).sum())
    key = distance / -torch.rand_like(distance).clamp(min=1e-30).log()  # the largest: a weighted draw
    return key.topk(min(number, away)).indices


def _scattered(rows: Tensor, number: int, spherical: bool) -> Tensor:
    chosen = rows[torch.randint(len(rows), (number,), device=rows.device)]
    spread = rows.std(0, correction=0).mean().clamp(min=1e-3)
    chosen = chosen + JITTER * spread * torch.randn_like(chosen)
    return normalize(chosen, dim=1) if spherical else chosen
