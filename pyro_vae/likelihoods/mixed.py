"""The likelihood of a table, whose columns have a likelihood each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.distributions import ByColumn, Columns
from pyro_vae.errors import InputError
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.multinomial import Multinomial


class Mixed(Likelihood):
    """x = (x_1, ..., x_D), a row of a table: p(x) = prod_j p_j(x_j), a likelihood for each column; nats.

    A density where any of the columns has one: its nats depend on the units of those. Of a column of classes, which
    have no mean, ``mean`` has the likeliest one.

    Args:
        columns: the likelihoods by name, in the order of the columns.

    Raises:
        InputError: without a column, and for a likelihood that is not one of single numbers.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import Beta, ClassLabels, Gaussian, Mixed, NegativeBinomial
        >>> likelihood = Mixed({"height": Gaussian("learned"), "job": ClassLabels(4), "visits": NegativeBinomial()})
        >>> likelihood.feature_shape((3,))  # 1 + 4 + 1
        (6,)
        >>> likelihood(torch.zeros(5, 6), event_dim=1).sample().shape
        torch.Size([5, 3])
    """

    def __init__(self, columns: Mapping[str, Likelihood]) -> None:
        super().__init__()
        if not columns:
            raise InputError("columns: a table needs at least one column")
        for name, likelihood in columns.items():
            if isinstance(likelihood, Mixed | Multinomial):
                raise InputError(
                    f"columns: '{name}' is {type(likelihood).__name__}, which is of several numbers together; a column "
                    "has a likelihood of single numbers"
                )
        self.names = tuple(columns)
        self.columns = nn.ModuleList(columns.values())  # a name may be any text, a module's may not
        self.support = ByColumn([likelihood.support for likelihood in columns.values()])

    def feature_shape(self, data_shape: Sequence[int]) -> tuple[int, ...]:
        """All the columns' features, one column's after another's.

        Raises:
            InputError: if data have another number of columns.
        """
        if tuple(data_shape) != (len(self.columns),):
            raise InputError(
                f"columns: the likelihood has {len(self.columns)} ({', '.join(self.names)}), the data have shape "
                f"{tuple(data_shape)}"
            )
        return (sum(self._sizes),)

    def forward(self, features: Tensor, event_dim: int = 1) -> dist.TorchDistribution:
        """The distribution of rows of the features ``(..., sum of the columns')``.

        Raises:
            InputError: if data are no rows, or there are too few or too many features.
        """
        if event_dim != 1 or features.shape[-1] != sum(self._sizes):
            raise InputError(
                f"Mixed needs {sum(self._sizes)} features of {len(self.columns)} columns and event_dim 1; got features "
                f"of shape {tuple(features.shape)} and event_dim {event_dim}"
            )
        parts = zip(self.columns, features.split(self._sizes, -1), strict=True)
        return Columns([likelihood(part, 1).base_dist for likelihood, part in parts]).to_event(1)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """Each column's, ``(sum of the columns',)``."""
        parts = zip(self.columns, mean.split(1), strict=True)
        return torch.cat([likelihood.initial_bias(part) for likelihood, part in parts])

    @property
    def _sizes(self) -> list[int]:
        return [likelihood.num_parameters for likelihood in self.columns]
