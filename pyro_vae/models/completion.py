"""Models that complete data of which a part is observed: a baseline network, and a VAE around it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.distributions import completed
from pyro_vae.errors import positive
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.models.base import GenerativeModel
from pyro_vae.networks import diagonal_normal, make_decoder, make_encoder
from pyro_vae.programs.context import Context


def visible(y: Tensor, mask: Tensor) -> Tensor:
    """What networks see of the observed part: y where ``mask``, -1 elsewhere; all ``(..., *data_shape)``."""
    return torch.where(mask, y, -torch.ones_like(y))


class CompletionBaseline(GenerativeModel):
    """x_i | y ~ likelihood(baseline(y))_i for the missing elements i: deterministic, without latents.

    Site: ``x`` with event shape ``data_shape``, whose log-probability counts the missing elements only.

    Args:
        data_shape: shape of one datum, (channels, height, width) or (features,).
        likelihood: p(x_i | features); Bernoulli if not given.
        baseline: ``"mlp"``, or a module from flattened data ``(batch, size)`` to
            ``(batch, likelihood.num_parameters * data_shape[0], *data_shape[1:])``.
        baseline_hidden_dims: widths of its layers.
        activation: its nonlinearity, by name.
        data_mean: mean of the training data, shape ``data_shape``; the output bias starts there.

    Raises:
        InputError: for an unknown network or activation, or a data_mean of another shape.

    Source: Sohn et al. 2015, NeurIPS 28: the baseline NN of table 1.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.CompletionBaseline((1, 8, 8), baseline_hidden_dims=(16,))
        >>> y, mask = torch.ones(3, 1, 8, 8), torch.arange(8).expand(3, 1, 8, 8) < 4  # the left half is observed
        >>> x = pyro_vae.sample(model, 3, batch={"y": y, "mask": mask})["x"]
        >>> x.shape, bool((x[mask] == 1).all())
        (torch.Size([3, 1, 8, 8]), True)
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        likelihood: Likelihood | None = None,
        baseline: str | nn.Module = "mlp",
        baseline_hidden_dims: Sequence[int] = (500, 500),
        activation: str = "relu",
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.likelihood = likelihood if likelihood is not None else Bernoulli()
        self.context = {
            "y": Context("the observed part of the data", self.data_shape),
            "mask": Context("which elements are observed", self.data_shape, torch.bool, constraints.boolean),
        }
        size = math.prod(self.data_shape)
        self.baseline = make_decoder(baseline, size, baseline_hidden_dims, self.feature_shape, activation)
        self.init_output_bias(self.baseline, data_mean)

    def guess(self, seen: Tensor) -> Tensor:
        """The baseline's features ``(batch, P * channels, height, width)`` of what is visible, of y's shape."""
        return self.baseline(seen.flatten(-len(self.data_shape)))

    def completed(self, features: Tensor, y: Tensor, mask: Tensor) -> dist.Distribution:
        """p(x | ., y): the elements of y where ``mask``, the likelihood of the features elsewhere."""
        return completed(self.likelihood(features, len(self.data_shape)), y, mask)

    def forward(self, x: Tensor | None = None, *, y: Tensor, mask: Tensor) -> Tensor:
        """Run the program on data ``x``, or complete each ``y`` ``(batch, *data_shape)`` where ``mask`` is False."""
        features = self.guess(visible(y, mask))
        with self.data_plate(y):
            return pyro.sample("x", self.completed(features, y, mask), obs=x)


class CompletionVAE(CompletionBaseline):
    """z | y ~ N(mu, diag sigma^2)(y, b);  x_i | z, y ~ likelihood(baseline(y) + decoder(z))_i for the missing i.

    b is the mean of the baseline network's own prediction (site ``prediction``, deterministic). The prior network sees
    it and the observed part; z decides what the baseline must leave open, and the decoder adds that to the baseline's
    features. Sites: ``z`` with event shape (latent_dim,), ``x`` as the baseline's, so that the ordinary ELBO and
    log-likelihood are those of the missing elements given y, log p(x_missing | y).

    Args:
        latent_dim: dimensions of z.
        decoder: ``"mlp"``, ``"conv"``, or a module from ``(..., latent_dim)`` to the features' shape.
        hidden_dims: widths of the decoder's layers from z to x (conv: channels, coarsest first).
        prior: ``"mlp"``, ``"conv"``, or a module from ``(batch, 2 * data_shape[0], *data_shape[1:])`` to
            ``(batch, 2 * latent_dim)``.
        prior_hidden_dims: widths of its layers from y to z (conv: channels).
        data_shape, likelihood, baseline, baseline_hidden_dims, activation, data_mean: see
            :class:`CompletionBaseline`.

    Raises:
        InputError: for unknown networks or activations, a non-positive latent_dim, a data_mean of another shape.

    Source: Sohn et al. 2015, NeurIPS 28, section 4.1 (where the decoder, too, is a network of its own).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.CompletionVAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> y, mask = torch.ones(3, 1, 8, 8), torch.arange(8).expand(3, 1, 8, 8) < 4  # the left half is observed
        >>> drawn = pyro_vae.sample(model, 3, batch={"y": y, "mask": mask})
        >>> drawn["z"].shape, drawn["x"].shape
        (torch.Size([3, 2]), torch.Size([3, 1, 8, 8]))
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dim: int = 200,
        likelihood: Likelihood | None = None,
        decoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (500, 500),
        prior: str | nn.Module = "mlp",
        prior_hidden_dims: Sequence[int] = (500, 500),
        baseline: str | nn.Module = "mlp",
        baseline_hidden_dims: Sequence[int] = (500, 500),
        activation: str = "relu",
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__(data_shape, likelihood, baseline, baseline_hidden_dims, activation, data_mean)
        self.latent_dim = positive("latent_dim", latent_dim)
        channels, *rest = self.data_shape
        two = (2 * channels, *rest)  # what is visible, and the prediction
        self.prior_network = make_encoder(prior, two, prior_hidden_dims, 2 * latent_dim, activation)
        self.decoder = make_decoder(decoder, latent_dim, hidden_dims, self.feature_shape, activation)

    def forward(self, x: Tensor | None = None, *, y: Tensor, mask: Tensor) -> Tensor:
        """Run the program on data ``x``, or complete each ``y`` ``(batch, *data_shape)`` where ``mask`` is False."""
        rank = len(self.data_shape)
        seen = visible(y, mask)
        guess = self.guess(seen)  # (batch, P * channels, height, width)
        b = self.completed(guess, y, mask).mean  # (batch, *data_shape)
        with self.data_plate(y):
            pyro.deterministic("prediction", b, event_dim=rank)
            moments = self.prior_network(torch.cat([seen, b], -rank))  # (batch, 2 * latent_dim)
            z = pyro.sample("z", diagonal_normal(moments).to_event(1))  # (..., batch, latent_dim)
            features = guess + self.decoder(z)  # (..., batch, P * channels, height, width)
            return pyro.sample("x", self.completed(features, y, mask), obs=x)
