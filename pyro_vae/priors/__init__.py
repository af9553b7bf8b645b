"""Priors over codes, each a module that gives a distribution."""

from pyro_vae.priors.base import AutoregressivePrior, CodeGrid, Prior
from pyro_vae.priors.pixelcnn import GatedPixelCNN
from pyro_vae.priors.transformer import TransformerPrior
from pyro_vae.priors.uniform import UniformPrior
from pyro_vae.priors.wavenet import WaveNet

__all__ = ["AutoregressivePrior", "CodeGrid", "GatedPixelCNN", "Prior", "TransformerPrior", "UniformPrior", "WaveNet"]
