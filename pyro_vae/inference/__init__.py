"""Objectives, schedules, the training loop, checkpoints."""

from pyro_vae.inference.elbo import ELBO
from pyro_vae.inference.fit import FitResult, fit
from pyro_vae.inference.iwae import IWAE
from pyro_vae.inference.kl_weight import KLWeighted, KLWeightMessenger
from pyro_vae.inference.objective import Objective, Terms
from pyro_vae.inference.schedules import Constant, Cosine, Linear, Schedule, Stages

__all__ = [
    "ELBO",
    "IWAE",
    "Constant",
    "Cosine",
    "FitResult",
    "KLWeightMessenger",
    "KLWeighted",
    "Linear",
    "Objective",
    "Schedule",
    "Stages",
    "Terms",
    "fit",
]
