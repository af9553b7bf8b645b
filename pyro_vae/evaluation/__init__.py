"""Measuring models: log-likelihood, ELBO by site, latents, figures."""

from pyro_vae.evaluation.elbo import elbo
from pyro_vae.evaluation.log_likelihood import log_likelihood
from pyro_vae.evaluation.results import EvidenceBound, LogLikelihood

__all__ = ["EvidenceBound", "LogLikelihood", "elbo", "log_likelihood"]
