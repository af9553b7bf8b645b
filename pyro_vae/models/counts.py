"""The generative model of counts, such as those of genes in cells, with a library size."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from pyro_vae.errors import positive
from pyro_vae.likelihoods import NegativeBinomial, ZeroInflated
from pyro_vae.models.base import GenerativeModel
from pyro_vae.networks import LogCounts, make_decoder
from pyro_vae.programs.context import Context

START = 0.54  # softplus of it is 1


class CountVAE(GenerativeModel):
    """l ~ LogNormal(m, s);  z ~ N(0, I);  x_g | z, l ~ likelihood of mean l softmax(decoder(z))_g.

    The library size l says how much was counted in a datum: the sequencing depth of a cell, say. It is data, the entry
    ``library``, and log p(x, l) = log p(l) + log p(x | l), the bits per dimension being of x given l. Where it was not
    measured, take the sums of the counts.

    Sites: ``library``, ``z`` with event shape (latent_dim,), ``x`` with event shape ``data_shape``.

    Args:
        data_shape: (counts of one datum,).
        latent_dim: dimensions of z.
        likelihood: of counts, given a library size; a negative binomial with an overdispersion of each count if not
            given.
        decoder: ``"mlp"``, or a module from ``(..., latent_dim)`` to the likelihood's features.
        hidden_dims: widths of the decoder's layers from z to x.
        activation: its nonlinearity, by name.
        data_mean: mean of the training data, shape ``data_shape``; the decoder's output bias and m start there.

    Raises:
        InputError: for an unknown decoder or activation, a non-positive latent_dim, a data_mean of another shape.

    Source: Lopez et al. 2018, Nature Methods 15 (scVI), where l is a latent in most of its versions.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.CountVAE((20,), latent_dim=2, hidden_dims=(8,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(8,))
        >>> x = torch.poisson(torch.full((5, 20), 3.0))
        >>> batch = {"x": x, "library": x.sum(1)}
        >>> sorted(pyro_vae.elbo(model, guide, batch).log_likelihood)
        ['library', 'x']
        >>> pyro_vae.log_likelihood(model, guide, batch, num_particles=5).bits_of
        'x given library'
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dim: int = 10,
        likelihood: NegativeBinomial | ZeroInflated | None = None,
        decoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (128,),
        activation: str = "relu",
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.latent_dim = positive("latent_dim", latent_dim)
        self.likelihood = likelihood if likelihood is not None else NegativeBinomial("per_pixel")
        what = "library sizes, positive (how much was counted of each datum)"
        self.context = {"library": Context(what, support=constraints.positive, drawn=True)}
        self.decoder = make_decoder(decoder, latent_dim, hidden_dims, self.feature_shape, activation)
        self.seen = LogCounts()
        self.library_loc = nn.Parameter(torch.zeros(()) if data_mean is None else data_mean.sum().clamp(min=1).log())
        self.library_raw_scale = nn.Parameter(torch.tensor(START))
        self.register_buffer("origin", torch.zeros(latent_dim), persistent=False)
        self.init_output_bias(self.decoder, data_mean)

    def forward(self, x: Tensor | None = None, library: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on counts ``x``, ``(batch, *data_shape)`` and library sizes (batch,), or sample some."""
        with self.data_plate(library if x is None else x, num_samples):
            size = dist.LogNormal(self.library_loc, softplus(self.library_raw_scale))
            library = pyro.sample("library", size, obs=library)  # (..., batch)
            z = pyro.sample("z", dist.Normal(self.origin, torch.ones_like(self.origin)).to_event(1))
            p = self.likelihood(self.decoder(z), len(self.data_shape), library=library)
            return pyro.sample("x", p, obs=x)
