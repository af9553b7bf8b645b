"""Generative models of the motions of what a single image shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.distributions import Rotated
from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods import Gaussian, Laplace, Likelihood
from pyro_vae.models.base import LatentPriorModel
from pyro_vae.networks import MLP, ContextEncoder, CosineTransform, PlaceDecoder, SkipDecoder, diagonal_normal
from pyro_vae.networks.features import Shape
from pyro_vae.priors import LatentPrior


class MotionField(nn.Module):
    r"""Coefficients of the motion of every cell, m d: how far, and which way, |d| < 1.

    Args:
        dims: sizes of the vectors that d and m are decoded from.
        scales: shapes of the image's features, finest first.
        shape: of the coefficients, (2 c, h, w).
        likelihood: of them, whose further features d's decoder gives as well.
        local: the vectors lie at every cell.
        how: options of :class:`~pyro_vae.networks.SkipDecoder` and :class:`~pyro_vae.networks.PlaceDecoder`.
    """

    def __init__(
        self,
        dims: tuple[int, int],
        scales: Sequence[Shape],
        shape: Shape,
        likelihood: Likelihood,
        local: bool = False,
        **how: Any,
    ) -> None:
        super().__init__()
        self.channels = shape[0]
        self.local = local
        if local and scales[-1][1:] != shape[1:]:
            raise InputError(
                f"latents of every cell look at the coarsest scale of the image's features, {scales[-1][1:]}: it must "
                f"be the data's, {tuple(shape[1:])}; channels must have so many scales"
            )
        seen: Any = scales[-1] if local else scales
        decoder: Any = PlaceDecoder if local else SkipDecoder
        self.direction = decoder(dims[0], seen, likelihood.feature_shape(shape), **how)
        self.magnitude = decoder(dims[1], seen, (1, *shape[1:]), **how)
        self.magnitude.set_output_bias(torch.ones(1, *shape[1:]))  # at 0, m has no slope

    def forward(self, direction: Tensor, magnitude: Tensor, grids: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """d ``(..., 2 c, h, w)``, m ``(..., 1, h, w)`` > 1, and the likelihood's features ``(..., P 2 c, h, w)``.

        Args:
            direction: ``(..., dims[0])``; local: ``(..., h, w, dims[0])``.
            magnitude: ``(..., dims[1])``; local: ``(..., h, w, dims[1])``.
            grids: features of the image, ``(..., *scale)``.
        """
        seen: Any = grids[-1] if self.local else grids
        features = self.direction(direction, seen)
        d, rest = features[..., : self.channels, :, :], features[..., self.channels :, :, :]
        d = d * (1 + d.square().sum(-3, keepdim=True)).rsqrt()
        m = (1 + self.magnitude(magnitude, seen).square()).sqrt()
        return d, m, torch.cat([m * d, rest], -3) if rest.shape[-3] else m * d


class ForecastRegressor(LatentPriorModel):
    r"""x | image ~ likelihood around one forecast; without latents, so that the ELBO is log p(x | image) itself.

    What may move in two ways is forecast to do neither: its mean. It is what :class:`ForecastVAE` is compared with.

    Sites: those of the data, as for :class:`ForecastVAE`.

    Args:
        data_shape, image_shape, likelihood, coefficients, channels, context_dim, num_blocks, activation, batch_norm:
            as for :class:`ForecastVAE`.

    Raises:
        InputError: as :class:`ForecastVAE`.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.ForecastRegressor((10, 4, 4), (3, 16, 16), channels=(6, 8), context_dim=10)
        >>> batch = {"x": torch.randn(5, 10, 4, 4), "image": torch.rand(5, 3, 16, 16)}
        >>> pyro_vae.log_likelihood(model, pyro_vae.guides.EmptyGuide(), batch, progress=False).per_datum.shape
        torch.Size([5])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        image_shape: Sequence[int],
        likelihood: Likelihood | None = None,
        coefficients: int | None = None,
        channels: Sequence[int] = (32, 64, 96),
        context_dim: int = 128,
        num_blocks: int = 1,
        activation: str = "relu",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        how = {"num_blocks": num_blocks, "activation": activation, "batch_norm": batch_norm}
        self._look(data_shape, image_shape, likelihood, coefficients, channels, context_dim, **how)
        self.field = MotionField((context_dim,) * 2, self.encoder.scales, self.shape, self.likelihood, **how)

    def _look(
        self,
        data_shape: Sequence[int],
        image_shape: Sequence[int],
        likelihood: Likelihood | None,
        coefficients: int | None,
        channels: Sequence[int],
        context_dim: int | None,
        **how: Any,
    ) -> None:
        """Check the shapes; make the transform, the likelihood and the image's encoder."""
        name = type(self).__name__
        self.data_shape, self.image_shape = tuple(data_shape), tuple(image_shape)
        if len(self.data_shape) != 3 or self.data_shape[0] % 2:
            raise InputError(f"{name}: data must be trajectories (2 * frames, height, width), got {self.data_shape}")
        self.likelihood = likelihood if likelihood is not None else Gaussian("learned")
        if not isinstance(self.likelihood, Gaussian | Laplace):
            raise InputError(
                f"{name}: likelihood must be a Gaussian or a Laplace, around the motion; got "
                f"{type(self.likelihood).__name__}"
            )
        self.transform = CosineTransform(self.data_shape[0] // 2, coefficients)
        self.shape = (2 * self.transform.coefficients, *self.data_shape[1:])
        self.encoder = ContextEncoder(image_shape, channels, context_dim, **how)
        self.context = {"image": self.encoder.accepts}

    def forward(self, x: Tensor | None = None, *, image: Tensor) -> Tensor:
        """Run the program on trajectories ``x`` (batch, 2 T, h, w), or forecast those of each image."""
        grids = self.encoder.grids(image)  # (batch, channels, height, width) each
        with self.data_plate(image):
            vector = self.encoder.vector(grids)  # (batch, context_dim)
            return self.observe(x, self.field(vector, vector, grids)[2])

    def observe(self, x: Tensor | None, features: Tensor) -> Tensor:
        """x ~ likelihood of its coefficients; with all of them a density of x, else of those that there are.

        Args:
            x: ``(batch, 2 T, h, w)``, or None: to be drawn.
            features: of the likelihood of the coefficients, ``(..., P 2 c, h, w)``.

        Returns:
            x; with fewer coefficients the trajectories of their mean.
        """
        density = self.likelihood(features, 3)
        if self.transform.complete:
            return pyro.sample("x", Rotated(density, self.transform.matrix), obs=x)
        smooth = pyro.deterministic("trajectories", self.transform.inverse(density.mean), event_dim=3)
        of = f"the first {self.transform.coefficients} of {self.transform.frames} cosine coefficients of x"
        seen = None if x is None else self.transform(x)
        pyro.sample("coefficients", density, obs=seen, infer={"density_of": of})
        return smooth


class ForecastVAE(ForecastRegressor):
    r"""Futures of an image: z_d, z_m | image;  y = DCT(x) | z, image ~ likelihood(m(z_m, image) d(z_d, image)).

    .. math:: d = \frac{f}{\sqrt{1 + |f|^2}}, \; f = f(z_d, \text{image}), \quad
        m = \sqrt{1 + g^2}, \; g = g(z_m, \text{image})

    x are trajectories of a grid of points over the image, in units of which noise is no large number; z_d says which
    way each of them goes (d is a vector of coefficients for every cell, a unit vector where f is large), z_m how far.
    With all coefficients the density is of x: the cosine transform is orthonormal. With fewer it is one of these
    coefficients, and every result says so.

    One vector z_d and one z_m say what the whole scene does, as in the paper. With ``local``, there are vectors at
    every cell, independent of one another given the image: what an object does depends on what is around it alone, and
    two objects go their ways by themselves.

    Sites: ``direction`` with event shape (direction_dim,), ``magnitude`` (magnitude_dim,), or with ``local``
    (h, w, direction_dim) and (h, w, magnitude_dim); ``x`` with event shape
    ``data_shape``, or, with fewer coefficients, ``coefficients`` (2 c, h, w) and the deterministic ``trajectories``
    ``data_shape`` of their mean. The context ``image`` is always needed; the data plate is as long as it.

    Args:
        data_shape: (2 T, h, w): displacements to the right after each of T frames, then those down; h and w are the
            sides of one of the scales of the image's features.
        image_shape: of the image, (channels, height, width).
        direction_dim, magnitude_dim: dimensions of z_d and z_m.
        likelihood: p(y | .), a Gaussian or Laplace in the units of x; a Gaussian with a learned scale if not given.
            ``"per_pixel"``: d's network gives a scale for every coefficient and cell.
        coefficients: c, cosine coefficients of each axis; all T if not given.
        channels: of the image's features at every scale, finest first; see :class:`~pyro_vae.networks.ContextEncoder`.
        context_dim: of the vector of the image's features that the priors see.
        num_blocks: residual blocks at every scale, of encoder and decoders.
        prior_hidden_dims: widths of the prior network's layers, from that vector to the moments of z; none: linear.
        activation: the networks' nonlinearity, by name.
        batch_norm: normalize inside the blocks.
        prior: p(z_d | image), learned, of the shape of that site, in place of the Gaussian;
            :class:`~pyro_vae.priors.MixtureDensityPrior` with a :class:`~pyro_vae.networks.ContextEncoder`, or with
            ``local`` a :class:`~pyro_vae.networks.ContextPlaces`, and ``argument="image"``.
        local: z_d and z_m are grids, of the sides of the last one of the image's scales; ``context_dim`` is not used.

    Raises:
        InputError: for shapes that do not fit each other, more coefficients than frames, sizes that are not positive,
            an unknown activation, another likelihood, a prior of another shape.

    Source: Walker et al. 2016, arXiv:1606.07873 (8 + 2 latents, 5 of 30 coefficients; their KL weight of 0.01 and their
    two losses are no bound: :class:`~pyro_vae.guides.ForecastGuide`). There d is ``f/|f|``. Of that the best m is 0 as
    long as d points anywhere, and m = 0 leaves d without a gradient, for good; here what does not move has d = 0. There
    the latents are laid over the grid as they are, here by a linear map (:class:`~pyro_vae.networks.SkipDecoder`).

    Example:
        >>> import pyro_vae, torch
        >>> sizes = {"channels": (6, 8), "context_dim": 10}
        >>> model = pyro_vae.models.ForecastVAE((10, 4, 4), (3, 16, 16), **sizes)
        >>> pyro_vae.sample(model, 5, batch={"image": torch.rand(5, 3, 16, 16)})["x"].shape
        torch.Size([5, 10, 4, 4])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        image_shape: Sequence[int],
        direction_dim: int = 8,
        magnitude_dim: int = 2,
        likelihood: Likelihood | None = None,
        coefficients: int | None = None,
        channels: Sequence[int] = (32, 64, 96),
        context_dim: int = 128,
        num_blocks: int = 1,
        prior_hidden_dims: Sequence[int] = (),
        activation: str = "relu",
        batch_norm: bool = False,
        prior: LatentPrior | None = None,
        local: bool = False,
    ) -> None:
        LatentPriorModel.__init__(self)
        how = {"num_blocks": num_blocks, "activation": activation, "batch_norm": batch_norm}
        self.dims = positive("direction_dim", direction_dim), positive("magnitude_dim", magnitude_dim)
        self.local = local
        self._look(data_shape, image_shape, likelihood, coefficients, channels, None if local else context_dim, **how)
        self.field = MotionField(self.dims, self.encoder.scales, self.shape, self.likelihood, local, **how)
        places = self.shape[1:] if local else ()
        self.take_prior(prior, "direction", (*places, direction_dim))
        dims = self.dims if prior is None else self.dims[1:]
        seen = self.encoder.scales[-1][0] if local else context_dim
        self.moments = MLP(seen, prior_hidden_dims, 2 * sum(dims), activation)

    def priors(self, image: Tensor, grids: Sequence[Tensor]) -> tuple[Any, Any]:
        """p(z_d | image) and p(z_m | image), of the event shapes of their sites.

        Args:
            image: ``(batch, channels, height, width)``, which a learned prior is given.
            grids: its features.
        """
        # (batch, context_dim), local: (batch, h, w, channels)
        seen = grids[-1].movedim(-3, -1) if self.local else self.encoder.vector(grids)
        moments = self.moments(seen)  # (batch, 2 * dims), local: (batch, h, w, 2 * dims)
        rank = moments.dim() - 1
        magnitude = diagonal_normal(moments[..., -2 * self.dims[1] :]).to_event(rank)
        if self.latent_prior is not None:
            return self.latent_prior(image=image), magnitude
        return diagonal_normal(moments[..., : 2 * self.dims[0]]).to_event(rank), magnitude

    def forward(self, x: Tensor | None = None, *, image: Tensor) -> Tensor:
        """Run the program on trajectories ``x`` (batch, 2 T, h, w), or draw a future of each image."""
        grids = self.encoder.grids(image)  # (batch, channels, height, width) each
        with self.data_plate(image):
            priors = self.priors(image, grids)
            direction = pyro.sample("direction", priors[0])  # (..., batch, direction_dim)
            magnitude = pyro.sample("magnitude", priors[1])  # (..., batch, magnitude_dim)
            return self.observe(x, self.field(direction, magnitude, grids)[2])
