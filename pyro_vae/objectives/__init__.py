"""What training maximizes: bounds of log p(x)."""

from pyro_vae.objectives.base import Objective, Terms
from pyro_vae.objectives.evidence_bound import ELBO
from pyro_vae.objectives.importance_weighted import IWAE

__all__ = ["ELBO", "IWAE", "Objective", "Terms"]
