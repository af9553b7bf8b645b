"""Variational autoencoders as pairs of Pyro programs: a model p(x, z) and a guide q(z | x)."""

from pyro_vae import evaluation, guides, models, objectives, training
from pyro_vae.data import load_data
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.runs import load
from pyro_vae.training import fit

__version__ = "0.1.0"
__all__ = ["ELBO", "IWAE", "evaluation", "fit", "guides", "load", "load_data", "models", "objectives", "training"]
