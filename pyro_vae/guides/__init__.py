"""Guides q(z | x), with the file names of the models that they belong to."""

from pyro_vae.guides.completion import CompletionGuide, EmptyGuide
from pyro_vae.guides.conditional import ConditionalGuide
from pyro_vae.guides.gaussian import GaussianGuide

__all__ = ["CompletionGuide", "ConditionalGuide", "EmptyGuide", "GaussianGuide"]
