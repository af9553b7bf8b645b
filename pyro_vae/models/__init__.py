"""Generative models p(x, z), one file per family."""

from pyro_vae.models.base import GenerativeModel
from pyro_vae.models.biva import BIVA
from pyro_vae.models.codes import CodeModel, TextCodeModel
from pyro_vae.models.completion import CompletionBaseline, CompletionVAE
from pyro_vae.models.conditional import ConditionalVAE
from pyro_vae.models.contrastive import ContrastiveModel
from pyro_vae.models.dvae import DVAE
from pyro_vae.models.gaussian import VAE
from pyro_vae.models.hierarchical import HierarchicalVAE
from pyro_vae.models.vq import VQVAE
from pyro_vae.models.vq2 import VQVAE2

__all__ = [
    "BIVA",
    "DVAE",
    "VAE",
    "VQVAE",
    "VQVAE2",
    "CodeModel",
    "CompletionBaseline",
    "CompletionVAE",
    "ConditionalVAE",
    "ContrastiveModel",
    "GenerativeModel",
    "HierarchicalVAE",
    "TextCodeModel",
]
