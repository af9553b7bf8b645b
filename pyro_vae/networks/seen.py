"""What networks are shown of data that are no plain numbers: counts, and tables with classes and missing entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint


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
        supports: of the columns, which tell classes (integers of an interval) and counts from other numbers.

    Example:
        >>> import torch
        >>> from torch.distributions import constraints
        >>> from pyro_vae.networks import TableColumns
        >>> seen = TableColumns([constraints.real, constraints.integer_interval(0, 2)])
        >>> seen(torch.tensor([[0.5, 2.0], [torch.nan, 0.0]]))
        tensor([[0.5000, 0.0000, 0.0000, 1.0000, 1.0000, 1.0000],
                [0.0000, 1.0000, 0.0000, 0.0000, 0.0000, 1.0000]])
    """

    def __init__(self, supports: Sequence[Constraint]) -> None:
        super().__init__()
        self.supports = tuple(supports)
        self.size = sum(_num_classes(support) or 1 for support in supports) + len(self.supports)

    def forward(self, x: Tensor) -> Tensor:
        """Map rows ``(..., columns)`` to ``(..., size)``."""
        known = ~x.isnan()
        filled = torch.where(known, x, torch.zeros_like(x))
        parts = []
        for i, support in enumerate(self.supports):
            column, count = filled[..., i : i + 1], _num_classes(support)
            if count is not None:
                hot = column == torch.arange(count, device=x.device, dtype=x.dtype)  # (..., K)
                column = (hot & known[..., i : i + 1]).to(x.dtype)
            elif support is constraints.nonnegative_integer:
                column = column.log1p()
            parts.append(column)
        return torch.cat([*parts, known.to(x.dtype)], -1)


def _num_classes(support: Constraint) -> int | None:
    """Of a column of classes, how many."""
    if isinstance(support, type(constraints.integer_interval(0, 1))):
        return int(support.upper_bound) + 1
    return None
