"""Training: ``fit``, schedules, checkpoints."""

from pyro_vae.training.fitting import FitResult, fit
from pyro_vae.training.schedules import Constant, Cosine, Linear, Schedule, Stages

__all__ = ["Constant", "Cosine", "FitResult", "Linear", "Schedule", "Stages", "fit"]
