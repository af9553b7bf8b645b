"""Images of texts: candidates, their judges, and how right they are."""

from pyro_vae.text_to_image.ranking import ContrastiveScorer, Scorer, best_of, scene_scorer, score_candidates
from pyro_vae.text_to_image.scene_accuracy import SceneScore, recognize, score_scenes

__all__ = [
    "ContrastiveScorer",
    "SceneScore",
    "Scorer",
    "best_of",
    "recognize",
    "scene_scorer",
    "score_candidates",
    "score_scenes",
]
