"""Measuring models: log-likelihood, ELBO by site, latents, figures."""

from pyro_vae.evaluation.ais import ais
from pyro_vae.evaluation.annealed import AnnealedLikelihood, Sandwich
from pyro_vae.evaluation.arviz_export import to_arviz
from pyro_vae.evaluation.code_statistics import CodeStatistics, CodeUsage, code_statistics
from pyro_vae.evaluation.elbo import elbo
from pyro_vae.evaluation.gap import LikelihoodGap, likelihood_gap
from pyro_vae.evaluation.latent_statistics import LatentStatistics, SiteStatistics, latent_statistics
from pyro_vae.evaluation.log_likelihood import log_likelihood
from pyro_vae.evaluation.ranking import ContrastiveScorer, Scorer, best_of, scene_scorer, score_candidates
from pyro_vae.evaluation.refine import RefinedBound, refine
from pyro_vae.evaluation.results import EvidenceBound, LogLikelihood
from pyro_vae.evaluation.sandwich import sandwich
from pyro_vae.evaluation.scenes import SceneScore, recognize, score_scenes

__all__ = [
    "AnnealedLikelihood",
    "CodeStatistics",
    "CodeUsage",
    "ContrastiveScorer",
    "EvidenceBound",
    "LatentStatistics",
    "LikelihoodGap",
    "LogLikelihood",
    "RefinedBound",
    "Sandwich",
    "SceneScore",
    "Scorer",
    "SiteStatistics",
    "ais",
    "best_of",
    "code_statistics",
    "elbo",
    "latent_statistics",
    "likelihood_gap",
    "log_likelihood",
    "recognize",
    "refine",
    "sandwich",
    "scene_scorer",
    "score_candidates",
    "score_scenes",
    "to_arviz",
]
