"""Columns of a table, each with a distribution of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint


class ByColumn(Constraint):
    """One constraint for each column, elementwise.

    Args:
        columns: constraints on single numbers, in the order of the columns.

    Example:
        >>> import torch
        >>> from torch.distributions import constraints
        >>> from pyro_vae.distributions import ByColumn
        >>> ByColumn([constraints.real, constraints.boolean]).check(torch.tensor([0.3, 0.3]))
        tensor([ True, False])
    """

    event_dim = 0

    def __init__(self, columns: Sequence[Constraint]) -> None:
        self.columns = tuple(columns)
        self.is_discrete = all(column.is_discrete for column in columns)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each number of ``(..., columns)`` is inside its column's constraint."""
        return torch.stack([c.check(v) for c, v in zip(self.columns, value.unbind(-1), strict=True)], -1)

    def __repr__(self) -> str:
        """The columns', for messages."""
        return f"ByColumn({', '.join(map(str, self.columns))})"


class Columns(TorchDistribution):
    """Independent columns, one distribution each: elementwise, batch shape ``(..., number of columns)``.

    ``log_prob`` is in nats: a density where any column has one. Classes have no mean: theirs is the likeliest.

    Args:
        columns: elementwise distributions, batch shape ``(..., 1)`` each.
        validate_args: check data; by default torch's global setting.

    Example:
        >>> import torch
        >>> import pyro.distributions as dist
        >>> from pyro_vae.distributions import Columns
        >>> fn = Columns([dist.Normal(torch.zeros(5, 1), 1.0), dist.Poisson(torch.ones(5, 1))]).to_event(1)
        >>> fn.batch_shape, fn.event_shape, fn.mean[0]
        (torch.Size([5]), torch.Size([2]), tensor([0., 1.]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, columns: Sequence[TorchDistribution], validate_args: bool | None = None) -> None:
        self.columns = tuple(columns)
        before = torch.broadcast_shapes(*(column.batch_shape[:-1] for column in columns))
        super().__init__((*before, len(columns)), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> ByColumn:
        """Each column's own."""
        return ByColumn([column.support for column in self.columns])

    def expand(self, batch_shape: Any, _instance: Any = None) -> Columns:
        """The same distribution with a larger batch shape, without copying."""
        new = Columns([column.expand((*batch_shape[:-1], 1)) for column in self.columns], validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats of each number, shape ``broadcast(value, batch_shape)``.

        Raises:
            ValueError: if validation is on and a value is outside of its column's support.
        """
        if self._validate_args:
            self._validate_sample(value)
        parts = zip(self.columns, value.split(1, -1), strict=True)
        return torch.cat(torch.broadcast_tensors(*(column.log_prob(part) for column, part in parts)), -1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw a table, ``(*sample_shape, *batch_shape)``."""
        with torch.no_grad():
            return self._together([column.sample(torch.Size(sample_shape)) for column in self.columns])

    @property
    def mean(self) -> Tensor:
        """Each column's; of classes the likeliest."""
        means = (c.mode if isinstance(c, torch.distributions.Categorical) else c.mean for c in self.columns)
        return self._together([*means])

    def _together(self, parts: Sequence[Tensor]) -> Tensor:
        real = next((part.dtype for part in parts if part.is_floating_point()), torch.get_default_dtype())
        return torch.cat(torch.broadcast_tensors(*(part.to(real) for part in parts)), -1)
