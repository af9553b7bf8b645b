"""What networks are shown of data that are no plain numbers: counts, and tables with classes and missing entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


class LogCounts(nn.Module):
    """log(1 + x) of counts x: thousands and tens look alike to a network.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import LogCounts
        >>> LogCounts()(torch.tensor([0.0, 1.0]))
        tensor([0.0000, 0.6931])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return x.log1p()


class TableColumns(nn.Module):
    """Rows of a table as a network is shown them: K numbers, one of them 1, of a column of K classes, log(1 + x) of
    counts, others as they are; 0 where an entry is missing (NaN); and last, of each column, whether it is there.

    Args:
        columns: of each, its number of classes K, or "count" or "real".

    Example:
        >>> import torch
        >>> from pyro_vae.networks import TableColumns
        >>> seen = TableColumns(["real", 3])
        >>> seen(torch.tensor([[0.5, 2.0], [torch.nan, 0.0]]))
        tensor([[0.5000, 0.0000, 0.0000, 1.0000, 1.0000, 1.0000],
                [0.0000, 1.0000, 0.0000, 0.0000, 0.0000, 1.0000]])
    """

    def __init__(self, columns: Sequence[int | Literal["count", "real"]]) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.size = sum(1 if isinstance(kind, str) else kind for kind in columns) + len(self.columns)

    def forward(self, x: Tensor) -> Tensor:
        """Map rows ``(..., columns)`` to ``(..., size)``."""
        known = ~x.isnan()
        filled = torch.where(known, x, torch.zeros_like(x))
        parts = []
        for i, kind in enumerate(self.columns):
            column = filled[..., i : i + 1]
            if not isinstance(kind, str):
                hot = column == torch.arange(kind, device=x.device, dtype=x.dtype)  # (..., K)
                column = (hot & known[..., i : i + 1]).to(x.dtype)
            elif kind == "count":
                column = column.log1p()
            parts.append(column)
        return torch.cat([*parts, known.to(x.dtype)], -1)
