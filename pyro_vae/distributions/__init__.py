"""Distributions that torch and Pyro lack."""

from pyro_vae.distributions.autoregressive import Autoregressive, PaddedText, Texts
from pyro_vae.distributions.completed import Completed, completed, counted_fraction, diagonal_normal, has_mask
from pyro_vae.distributions.grey_levels import DiscretizedCategorical, DiscretizedLogisticMixture, Levels
from pyro_vae.distributions.logit_laplace import LogitLaplace
from pyro_vae.distributions.relaxed_codes import RelaxedCodes, RelaxedUniformCodes
from pyro_vae.distributions.uniform_codes import UniformCodes

__all__ = [
    "Autoregressive",
    "Completed",
    "DiscretizedCategorical",
    "DiscretizedLogisticMixture",
    "Levels",
    "PaddedText",
    "Texts",
    "LogitLaplace",
    "RelaxedCodes",
    "RelaxedUniformCodes",
    "UniformCodes",
    "completed",
    "counted_fraction",
    "diagonal_normal",
    "has_mask",
]
