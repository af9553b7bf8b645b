"""Measuring models: log-likelihood, ELBO by site, latents, figures."""

from pyro_vae.evaluation.code_statistics import CodeStatistics, CodeUsage, code_statistics
from pyro_vae.evaluation.elbo import elbo
from pyro_vae.evaluation.latent_statistics import LatentStatistics, SiteStatistics, latent_statistics
from pyro_vae.evaluation.log_likelihood import log_likelihood
from pyro_vae.evaluation.results import EvidenceBound, LogLikelihood

__all__ = [
    "CodeStatistics",
    "CodeUsage",
    "EvidenceBound",
    "LatentStatistics",
    "LogLikelihood",
    "SiteStatistics",
    "code_statistics",
    "elbo",
    "latent_statistics",
    "log_likelihood",
]
