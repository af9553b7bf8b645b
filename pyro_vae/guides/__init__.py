"""Amortized guides q(z | x), one file per family."""

from pyro_vae.guides.biva import BIVAGuide
from pyro_vae.guides.completion import CompletionGuide, EmptyGuide
from pyro_vae.guides.conditional import ConditionalGuide
from pyro_vae.guides.dvae import DVAEGuide
from pyro_vae.guides.gaussian import GaussianGuide
from pyro_vae.guides.hierarchical import HierarchicalGuide
from pyro_vae.guides.ladder import LadderGuide
from pyro_vae.guides.vq import VQGuide
from pyro_vae.guides.vq2 import VQ2Guide

__all__ = [
    "BIVAGuide",
    "CompletionGuide",
    "ConditionalGuide",
    "DVAEGuide",
    "EmptyGuide",
    "GaussianGuide",
    "HierarchicalGuide",
    "LadderGuide",
    "VQ2Guide",
    "VQGuide",
]
