"""Measuring models: log-likelihood, ELBO by site, latents, figures."""

from pyro_vae.evaluation.amortization import LikelihoodGap, RefinedBound, likelihood_gap, refine
from pyro_vae.evaluation.annealing.ais import ais
from pyro_vae.evaluation.annealing.bidirectional import sandwich
from pyro_vae.evaluation.annealing.results import AnnealedLikelihood, Sandwich
from pyro_vae.evaluation.arviz import to_arviz
from pyro_vae.evaluation.codes import CodeStatistics, CodeUsage, code_statistics
from pyro_vae.evaluation.evidence import elbo
from pyro_vae.evaluation.importance import log_likelihood
from pyro_vae.evaluation.latent_units import LatentStatistics, SiteStatistics, latent_statistics
from pyro_vae.evaluation.results import EvidenceBound, LogLikelihood

__all__ = [
    "AnnealedLikelihood",
    "CodeStatistics",
    "CodeUsage",
    "EvidenceBound",
    "LatentStatistics",
    "LikelihoodGap",
    "LogLikelihood",
    "RefinedBound",
    "Sandwich",
    "SiteStatistics",
    "ais",
    "code_statistics",
    "elbo",
    "latent_statistics",
    "likelihood_gap",
    "log_likelihood",
    "refine",
    "sandwich",
    "to_arviz",
]
