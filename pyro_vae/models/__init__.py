"""Generative models p(x, z), one file per family."""

from pyro_vae.models.base import GenerativeModel
from pyro_vae.models.gaussian import VAE

__all__ = ["VAE", "GenerativeModel"]
