"""The generative model of semi-supervised learning: a class label that is known for some data only."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.errors import positive
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.models.base import GenerativeModel
from pyro_vae.networks import MLP, OneHot, beside, diagonal_normal, make_decoder
from pyro_vae.programs.context import partial_label_context


class PartlyLabelled(GenerativeModel):
    """What models share whose class label y is known for some data: the label, and the noise N(0, I).

    Args:
        data_shape: shape of one datum.
        num_classes: C.
        noise_dim: dimensions of the latent that is N(0, I).
        likelihood: p(x | decoder features); Bernoulli if not given.
    """

    def __init__(
        self, data_shape: Sequence[int], num_classes: int, noise_dim: int, likelihood: Likelihood | None
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.likelihood = likelihood if likelihood is not None else Bernoulli()
        self.condition = OneHot(num_classes)
        self.context = {"y": partial_label_context(num_classes)}
        self.register_buffer("origin", torch.zeros(noise_dim), persistent=False)

    def label(self, y: Tensor | None) -> Tensor:
        """The site y: observed where it is known."""
        prior = dist.Categorical(logits=self.origin.new_zeros(self.condition.dim))
        if y is None:
            return pyro.sample("y", prior)
        return pyro.sample("y", prior, obs=y.clamp(min=0), obs_mask=y >= 0)

    def noise(self, name: str) -> Tensor:
        """A site of N(0, I), ``(..., batch, noise_dim)``."""
        return pyro.sample(name, dist.Normal(self.origin, torch.ones_like(self.origin)).to_event(1))


class SemiSupervisedVAE(PartlyLabelled):
    """y ~ Categorical(1/C);  z ~ N(0, I);  x | y, z ~ likelihood(decoder(z, y)), with y known for some data.

    Sites: ``y`` (``y_observed`` and ``y_unobserved`` where labels are given, as by Pyro's ``obs_mask``), ``z`` with
    event shape (latent_dim,), ``x`` with event shape ``data_shape``. A label that is not known is summed over exactly,
    in the same batch as those that are: log p(x) of a datum without one, log p(x, y) of a datum with one.

    Args:
        data_shape: shape of one datum, (channels, height, width) or (features,).
        num_classes: C.
        latent_dim: dimensions of z.
        likelihood: p(x | decoder features); Bernoulli if not given.
        decoder: ``"mlp"``, ``"conv"``, or a module from ``(..., latent_dim + num_classes)`` to
            ``(..., likelihood.num_parameters * data_shape[0], *data_shape[1:])``.
        hidden_dims: widths of the decoder's layers from (z, y) to x (conv: channels, coarsest first).
        activation: its nonlinearity, by name.
        data_mean: mean of the training data, shape ``data_shape``; the decoder's output bias starts there.

    Raises:
        InputError: for an unknown decoder or activation, sizes that are not positive, a data_mean of another shape.

    Source: Kingma et al. 2014, arXiv:1406.5298 (model M2).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.SemiSupervisedVAE((1, 8, 8), num_classes=3, latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.SemiSupervisedGuide(model, hidden_dims=(16,))
        >>> batch = {"x": torch.ones(4, 1, 8, 8), "y": torch.tensor([0, 2, -1, -1])}  # -1: not known
        >>> pyro_vae.posterior_probabilities(model, guide, batch)["y_unobserved"].shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 10,
        latent_dim: int = 50,
        likelihood: Likelihood | None = None,
        decoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (500, 500),
        activation: str = "softplus",
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__(data_shape, num_classes, positive("latent_dim", latent_dim), likelihood)
        self.latent_dim = latent_dim
        self.decoder = make_decoder(decoder, latent_dim + num_classes, hidden_dims, self.feature_shape, activation)
        self.init_output_bias(self.decoder, data_mean)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, and labels ``y``, (batch,), -1 where not known."""
        with self.data_plate(y if x is None else x, num_samples):
            label = self.label(y)  # (batch,), or all C values (C, 1, ..., batch or 1)
            z = self.noise("z")  # (..., batch, latent_dim)
            features = self.decoder(beside(z, self.condition(label)))  # (..., batch, P * channels, height, width)
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)


class StackedSemiSupervisedVAE(PartlyLabelled):
    """y ~ Categorical(1/C);  z2 ~ N(0, I);  z1 | y, z2 ~ N(mu, diag sigma^2)(y, z2);  x | z1 ~ likelihood(decoder(z1)).

    Classes are told apart among the latents z1 of an image, not among its pixels (M1 and M2 as one model, trained
    together): the sum over labels is one over a small network, and a step costs little more than a VAE's.

    Sites: ``y`` as of :class:`SemiSupervisedVAE`, ``z2`` with event shape (style_dim,), ``z1`` with event shape
    (latent_dim,), ``x``.

    Args:
        data_shape: shape of one datum, (channels, height, width) or (features,).
        num_classes: C.
        latent_dim, style_dim: dimensions of z1 and z2.
        likelihood, decoder, hidden_dims, activation, data_mean: as of :class:`SemiSupervisedVAE`; the decoder's input
            is z1 ``(..., latent_dim)``.
        latent_hidden_dims: widths of the layers from (z2, y) to the moments of z1.

    Raises:
        InputError: as :class:`SemiSupervisedVAE`.

    Source: Kingma et al. 2014, arXiv:1406.5298 (M1+M2, there one after the other).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.StackedSemiSupervisedVAE((1, 8, 8), 3, 4, 2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.StackedSemiSupervisedGuide(model, hidden_dims=(16,))
        >>> batch = {"x": torch.ones(4, 1, 8, 8), "y": torch.tensor([0, 2, -1, -1])}  # -1: not known
        >>> pyro_vae.posterior_probabilities(model, guide, batch)["y_unobserved"].shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 10,
        latent_dim: int = 20,
        style_dim: int = 5,
        likelihood: Likelihood | None = None,
        decoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (300, 300),
        latent_hidden_dims: Sequence[int] = (100,),
        activation: str = "relu",
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__(data_shape, num_classes, positive("style_dim", style_dim), likelihood)
        self.latent_dim, self.style_dim = positive("latent_dim", latent_dim), style_dim
        self.prior_network = MLP(style_dim + num_classes, latent_hidden_dims, 2 * latent_dim, activation)
        self.decoder = make_decoder(decoder, latent_dim, hidden_dims, self.feature_shape, activation)
        self.init_output_bias(self.decoder, data_mean)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, and labels ``y``, (batch,), -1 where not known."""
        with self.data_plate(y if x is None else x, num_samples):
            label = self.label(y)  # (batch,), or all C values (C, 1, ..., batch or 1)
            z2 = self.noise("z2")  # (..., batch, style_dim)
            moments = self.prior_network(beside(z2, self.condition(label)))  # (..., batch, 2 * latent_dim)
            z1 = pyro.sample("z1", diagonal_normal(moments).to_event(1))
            features = self.decoder(z1)  # (..., batch, P * channels, height, width)
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)
