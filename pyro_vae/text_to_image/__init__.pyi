from .ranking import ContrastiveScorer as ContrastiveScorer
from .ranking import Scorer as Scorer
from .ranking import best_of as best_of
from .ranking import scene_scorer as scene_scorer
from .ranking import score_candidates as score_candidates
from .scene_accuracy import SceneScore as SceneScore
from .scene_accuracy import recognize as recognize
from .scene_accuracy import score_scenes as score_scenes
