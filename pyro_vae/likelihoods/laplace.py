"""Real data with Laplace noise."""

from __future__ import annotations

import pyro.distributions as dist

from pyro_vae.likelihoods.location_scale import LocationScale


class Laplace(LocationScale):
    """log p(x) = -|x - mu| / s - log(2 s) nats per element: a density, which may exceed 1.

    ``Laplace(scale, min_scale)``: the scale s is the mean absolute deviation, in the data's units; fixed, one
    learned scalar, or per pixel. See :class:`LocationScale` for the arguments and the lower bound.
    """

    family = dist.Laplace
