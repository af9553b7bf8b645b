"""Variational autoencoders as pairs of Pyro programs: a model p(x, z) and a guide q(z | x)."""

from pyro_vae import evaluation, guides, inference, models
from pyro_vae.data import load_data
from pyro_vae.inference import ELBO, IWAE, fit
from pyro_vae.recipes import load

__version__ = "0.1.0"
__all__ = ["ELBO", "IWAE", "evaluation", "fit", "guides", "inference", "load", "load_data", "models"]
