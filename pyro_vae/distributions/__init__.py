"""Distributions that torch and Pyro lack."""

from pyro_vae.distributions.autoregressive import Autoregressive
from pyro_vae.distributions.completed import Completed, completed, counted_fraction, has_mask
from pyro_vae.distributions.diagonal_normal import diagonal_normal
from pyro_vae.distributions.discrete_levels import DiscretizedCategorical
from pyro_vae.distributions.discretized_logistic_mixture import DiscretizedLogisticMixture
from pyro_vae.distributions.levels import Levels
from pyro_vae.distributions.logit_laplace import LogitLaplace
from pyro_vae.distributions.relaxed_codes import RelaxedCodes, RelaxedUniformCodes
from pyro_vae.distributions.texts import PaddedText, Texts
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
