"""Real data with Gaussian noise."""

from __future__ import annotations

import pyro.distributions as dist

from pyro_vae.likelihoods.location_scale import LocationScale


class Gaussian(LocationScale):
    """log p(x) = -(x - mu)^2 / (2 s^2) - log s - log(2 pi)/2 nats per element: a density, which may exceed 1.

    ``Gaussian(scale, min_scale)``: the scale s is the standard deviation, in the data's units; fixed, one
    learned scalar, or per pixel. See :class:`LocationScale` for the arguments and the lower bound.
    """

    family = dist.Normal
