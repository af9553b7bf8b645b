"""Every recipe that the package ships parses and builds, at its own size."""

import pytest
import torch

from pyro_vae.models import ContrastiveModel
from pyro_vae.priors import LatentPrior, Prior, UniformPrior
from pyro_vae.recipes import read_recipe, recipe_names
from pyro_vae.runs.config import build, experiment_parser, parse_config
from pyro_vae.runs.learned_priors import build_latent_prior, build_prior, is_over_latents, parse_prior_config
from pyro_vae.text_to_image.ranker import parse_ranker_config

SHAPES = {
    "dvae-published": (3, 256, 256),
    "dvae-emoji": (3, 32, 32),
    "vqvae-colour": (3, 32, 32),
    "vqvae2-colour": (3, 256, 256),
    "vqvae-audio": (1, 8192),
    "dmm": (20, 3),
    "tabular": (7,),
    "counts": (100,),
    "topics": (200,),
    "forecasting": (20, 8, 8),
    "colorization": (2, 32, 32),
    "colorization-shapes": (2, 32, 32),
}
CONTEXTS = {  # shapes of what data have beside x
    "forecasting": {"image": (3, 32, 32)},
    **{name: {"image": (1, 32, 32)} for name in ("colorization", "colorization-shapes", "mdn")},
}
TOKENS = {  # lengths, and numbers of tokens
    **dict.fromkeys(("text-vae", "language-model"), (20, 31)),
    **dict.fromkeys(("text-vae-verses", "language-model-verses"), (41, 3002)),
    **dict.fromkeys(("music-vae-2bar", "music-lm"), (32, 131)),
    **dict.fromkeys(("music-vae-16bar", "music-vae-16bar-flat"), (256, 131)),
}
GRIDS = {"wavenet": (512,)}
CLIPS = {"video-codes": (10, 6, 5, 32), "video-codes-grid": (8, 2, 3, 24)}  # steps, frames given, actions, side
BEFORE = {"frame-pixelcnn": {"codes_frames": (16, (2, 6, 6))}}  # frames' codes, of a prior over those of 8 frames


@pytest.mark.parametrize("name", recipe_names())
def test_it_builds(name):
    config = read_recipe(name)
    if "prior" in config and is_over_latents(parsed := parse_prior_config(config, name)):
        beside = {f"{key}_shape": each for key, each in CONTEXTS.get(name, {}).items()}
        prior = build_latent_prior(parsed, (20,), {"data_shape": (1, 28, 28), **beside})
        assert isinstance(prior, LatentPrior) and prior.shape == (20,)
        return
    if "prior" in config:
        present = UniformPrior(16, GRIDS.get(name, (7, 7)))
        if name in BEFORE:
            present = UniformPrior(16, (8, 6, 6), coarser=BEFORE[name], num_actions=3)
        text = {"text_length": 22, "num_words": 400} if "text" in config else None
        prior = build_prior(parse_prior_config(config, name), present, 10, text)
        assert isinstance(prior, Prior) and prior.num_codes == 16 and prior.num_words == (400 if text else None)
        return
    if "ranker" in config:
        ranker = parse_ranker_config(config, name).ranker.as_dict()
        assert ContrastiveModel((3, 32, 32), 400, 22, **ranker).data_shape == (3, 32, 32)
        return
    length, num_tokens = TOKENS.get(name, (None, None))
    shape = SHAPES.get(name, (1, 28, 28)) if length is None else (length,)
    facts = {"num_tokens": num_tokens, "context_shapes": CONTEXTS.get(name, {})}
    if name in CLIPS:
        steps, given, num_actions, side = CLIPS[name]
        shape, context = (steps, 3, side, side), {"frames": (given, 3, side, side), "actions": (steps,)}
        facts |= {"num_actions": num_actions, "context_shapes": context}
    parts = build(parse_config(experiment_parser(config), config, name), shape, **facts)
    assert isinstance(parts.model, torch.nn.Module) and isinstance(parts.guide, torch.nn.Module)
