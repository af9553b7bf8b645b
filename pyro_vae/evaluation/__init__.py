"""Measuring models: log-likelihood, ELBO by site, latents, figures."""

from pyro_vae.evaluation.arviz_export import to_arviz
from pyro_vae.evaluation.code_statistics import CodeStatistics, CodeUsage, code_statistics
from pyro_vae.evaluation.elbo import elbo
from pyro_vae.evaluation.latent_statistics import LatentStatistics, SiteStatistics, latent_statistics
from pyro_vae.evaluation.log_likelihood import log_likelihood
from pyro_vae.evaluation.ranking import ContrastiveScorer, Scorer, best_of, scene_scorer, score_candidates
from pyro_vae.evaluation.results import EvidenceBound, LogLikelihood
from pyro_vae.evaluation.scenes import SceneScore, recognize, score_scenes

__all__ = [
    "CodeStatistics",
    "CodeUsage",
    "ContrastiveScorer",
    "EvidenceBound",
    "LatentStatistics",
    "LogLikelihood",
    "SceneScore",
    "Scorer",
    "SiteStatistics",
    "best_of",
    "code_statistics",
    "elbo",
    "latent_statistics",
    "log_likelihood",
    "recognize",
    "scene_scorer",
    "score_candidates",
    "score_scenes",
    "to_arviz",
]
