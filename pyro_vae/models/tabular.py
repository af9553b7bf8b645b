"""The generative model of a table whose columns are of different kinds, and some of whose entries are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods import Gaussian, Likelihood, Mixed
from pyro_vae.models.base import GenerativeModel
from pyro_vae.networks import TableColumns, make_decoder

INSIDE = (0.0, 0.5, 1.0)  # one of these is in every column's support


class TabularVAE(GenerativeModel):
    """z ~ N(0, I);  x_j | z ~ likelihood_j(decoder(z)_j) for each column j, of which only known entries count.

    log p of a row is that of what is known of it, the rest integrated out: as the columns are independent given z, they
    drop out of p(x | z). So entries are taken to be missing at random. NaN marks them, in data with ``missing=True``.

    Sites: ``z`` with event shape (latent_dim,), ``x`` with event shape (columns,).

    Args:
        data_shape: (columns,).
        latent_dim: dimensions of z.
        likelihood: of all the columns, :class:`~pyro_vae.likelihoods.Mixed` or any other of single numbers;
            a Gaussian of learned scale if not given.
        decoder: ``"mlp"``, or a module from ``(..., latent_dim)`` to ``(..., features)``.
        hidden_dims: widths of the decoder's layers from z to x.
        activation: its nonlinearity, by name.
        data_mean: mean of the known training data, ``(columns,)``; the decoder's output bias starts there.

    Raises:
        InputError: for data that are no rows, another number of columns than the likelihood's, an unknown decoder or
            activation, a non-positive latent_dim, a data_mean of another shape.

    Source: Nazabal et al. 2020, Pattern Recognition 107, arXiv:1807.03653 (HI-VAE), here with z ~ N(0, I).

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.likelihoods import ClassLabels, Gaussian, Mixed
        >>> likelihood = Mixed({"height": Gaussian("learned"), "job": ClassLabels(3)})
        >>> model = pyro_vae.models.TabularVAE((2,), latent_dim=1, likelihood=likelihood, hidden_dims=(8,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(8,))
        >>> rows = torch.tensor([[1.7, 2.0], [torch.nan, 0.0]])
        >>> table = pyro_vae.data.Split({"x": rows}, missing=True)
        >>> pyro_vae.log_likelihood(model, guide, table, num_particles=5).num_dimensions  # 3 entries of 2 rows
        1.5
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dim: int = 10,
        likelihood: Likelihood | None = None,
        decoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (100, 100),
        activation: str = "tanh",
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        if len(data_shape) != 1:
            raise InputError(f"data_shape: a table has rows of shape (columns,), got {tuple(data_shape)}")
        self.data_shape = tuple(data_shape)
        self.latent_dim = positive("latent_dim", latent_dim)
        self.likelihood = likelihood if likelihood is not None else Gaussian("learned")
        self.decoder = make_decoder(decoder, latent_dim, hidden_dims, self.feature_shape, activation)
        supports = self._supports()
        self.seen = TableColumns([_kind(support) for support in supports])
        inside = [next((v for v in INSIDE if bool(s.check(torch.tensor(v)))), 0.0) for s in supports]
        self.register_buffer("inside", torch.tensor(inside), persistent=False)
        self.register_buffer("origin", torch.zeros(latent_dim), persistent=False)
        self.init_output_bias(self.decoder, data_mean)

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on rows ``x`` (batch, columns), NaN where an entry is missing, or sample some."""
        with self.data_plate(x, num_samples):
            z = pyro.sample("z", dist.Normal(self.origin, torch.ones_like(self.origin)).to_event(1))
            p = self.likelihood(self.decoder(z), 1)  # (..., batch), rows
            if x is None:
                return pyro.sample("x", p)
            known = ~x.isnan()
            filled = torch.where(known, x, self.inside)  # by what has some density, which does not count
            return pyro.sample("x", p.base_dist.mask(known).to_event(1), obs=filled)

    def _supports(self) -> list[constraints.Constraint]:
        if isinstance(self.likelihood, Mixed):
            return [column.support for column in self.likelihood.columns]
        return [self.likelihood.support] * self.data_shape[0]


def _kind(support: constraints.Constraint) -> int | Literal["count", "real"]:
    """Of a column of classes, how many; else what numbers it has."""
    if isinstance(support, type(constraints.integer_interval(0, 1))):
        return int(support.upper_bound) + 1
    return "count" if support is constraints.nonnegative_integer else "real"
