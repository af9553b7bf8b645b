"""Which positions of a grid of tokens attend to which: boolean masks (queries, keys), True where a query sees a key.

Positions are counted row by row, and none sees a later one. Given tokens (a text, a label, coarser codes) stand before
the grid, and every position sees all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pyro_vae.errors import InputError, unknown

Attention = Literal["full", "sparse"]
Kind = Literal["full", "row", "column", "window"]


def layer_kinds(attention: Attention, depth: int) -> list[Kind]:
    """What the layers of a transformer see, the first one first.

    Sparse: layer i (from 1) sees its column where (i - 2) mod 4 = 0, else about a row back; the last one sees a window.

    Raises:
        InputError: for another name.

    Source: Ramesh et al. 2021, arXiv:2102.12092, appendix B.1.
    """
    if attention == "full":
        return ["full"] * depth
    if attention == "sparse":
        return ["window" if i == depth else "column" if (i - 2) % 4 == 0 else "row" for i in range(1, depth + 1)]
    raise unknown("attention", attention, ("full", "sparse"))


def grid_mask(kind: Kind, shape: Sequence[int], window: int) -> Tensor:
    """The mask ``(N, N)`` of one kind over a grid of N positions; only full ones are there for sequences."""
    if kind == "full":
        return causal_mask(shape[0] * (shape[1] if len(shape) == 2 else 1))
    if len(shape) != 2:
        raise InputError(f"attention 'sparse' needs a grid (height, width), got {tuple(shape)}: choose 'full'")
    if kind == "window":
        return window_mask(shape, window)
    return row_mask(shape) if kind == "row" else column_mask(shape)


def causal_mask(length: int) -> Tensor:
    """Position i sees all j <= i, ``(length, length)``."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def row_mask(shape: Sequence[int]) -> Tensor:
    """Position i sees i - width … i, back over one full row to the position right above it, ``(N, N)``."""
    back = _back(shape)
    return (back >= 0) & (back <= shape[1])


def column_mask(shape: Sequence[int]) -> Tensor:
    """Position i sees those above it in its column, and itself, ``(N, N)``."""
    back = _back(shape)
    return (back >= 0) & (back % shape[1] == 0)


def window_mask(shape: Sequence[int], window: int) -> Tensor:
    """Position i sees the j <= i in the square of side ``window`` around it, ``(N, N)``, as a masked convolution does.

    Raises:
        InputError: if the side is even, or less than 3.
    """
    if window < 3 or window % 2 == 0:
        raise InputError(f"window must be odd and at least 3, got {window}")
    place = torch.arange(shape[0] * shape[1])
    row, column = place // shape[1], place % shape[1]
    near = [(axis[:, None] - axis).abs() <= window // 2 for axis in (row, column)]
    return near[0] & near[1] & (_back(shape) >= 0)


def _back(shape: Sequence[int]) -> Tensor:
    """i - j, ``(N, N)``."""
    place = torch.arange(shape[0] * shape[1])
    return place[:, None] - place


def after_given(mask: Tensor, given: int) -> Tensor:
    """The same positions after ``given`` tokens that all of them see: ``(N, N)`` to ``(N, given + N)``."""
    return torch.cat([mask.new_ones(len(mask), given), mask], 1)


def given_mask(text: int, others: int) -> Tensor:
    """What the given tokens see, ``(P, P)``: those of the text what is before them in it, and the others all there are.

    So the text's own probabilities depend on nothing but the text.
    """
    mask = torch.ones(text + others, text + others, dtype=torch.bool)
    mask[:text] = False
    mask[:text, :text] = causal_mask(text)
    return mask
