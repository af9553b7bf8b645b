"""Distributions that torch and Pyro lack."""

from pyro_vae.distributions.discrete_levels import DiscretizedCategorical
from pyro_vae.distributions.discretized_logistic_mixture import DiscretizedLogisticMixture
from pyro_vae.distributions.levels import Levels

__all__ = ["DiscretizedCategorical", "DiscretizedLogisticMixture", "Levels"]
