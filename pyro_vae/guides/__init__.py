"""Guides q(z | x), with the file names of the models that they belong to."""

from pyro_vae.guides.gaussian import GaussianGuide

__all__ = ["GaussianGuide"]
