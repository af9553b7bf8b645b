"""Generative models p(x, z), one file per family."""

from pyro_vae.models.base import GenerativeModel
from pyro_vae.models.biva import BIVA
from pyro_vae.models.completion import CompletionBaseline, CompletionVAE
from pyro_vae.models.conditional import ConditionalVAE
from pyro_vae.models.gaussian import VAE
from pyro_vae.models.hierarchical import HierarchicalVAE

__all__ = [
    "BIVA",
    "VAE",
    "CompletionBaseline",
    "CompletionVAE",
    "ConditionalVAE",
    "GenerativeModel",
    "HierarchicalVAE",
]
