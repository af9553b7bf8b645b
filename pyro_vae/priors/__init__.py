"""Priors over codes, each a module that gives a distribution."""

from pyro_vae.priors.base import CodeGrid, Prior
from pyro_vae.priors.uniform import UniformPrior

__all__ = ["CodeGrid", "Prior", "UniformPrior"]
