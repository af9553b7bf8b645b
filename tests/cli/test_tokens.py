"""``pyro-vae sample``, ``reconstruct``, ``interpolate`` and the other commands on a run of texts."""

import numpy as np
import pytest
from command_line import run as pyro_vae
from command_line import write

from pyro_vae.data import RawData, Vocabulary, registry, source

COLOURS, SHAPES = ("red", "blue", "green"), ("circle", "square")


def sentences(count, seed):
    """Sentences of three lengths."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        things = [f"a {generator.choice(COLOURS)} {generator.choice(SHAPES)}" for _ in range(generator.integers(1, 4))]
        found.append(f"{' and '.join(things)}.")
    return found


@pytest.fixture(scope="module")
def texts():
    """A small dataset of sentences, known for as long as these tests run."""
    before = dict(registry._sources) if registry._sources else None
    registry.sources()
    patch = pytest.MonkeyPatch()
    patch.setattr(registry, "_sources", {each.name: each for each in registry.sources()})

    @source("sentences", "small ones")
    def load_sentences() -> RawData:
        """Load them."""
        parts = {part: sentences(count, i) for i, (part, count) in enumerate({"train": 120, "test": 40}.items())}
        words = Vocabulary.learn(parts["train"]).with_max_length(12)
        return RawData({part: {"x": words.encode(some)} for part, some in parts.items()}, extras=(words,))

    yield
    patch.undo()
    assert before is None or registry._sources.keys() >= before.keys()


def likelihood(features):
    sizes = {"features": features, "embedding_dim": 8, "hidden_dim": 24}
    return {"class_path": "pyro_vae.likelihoods.RecurrentTokens", "init_args": sizes}


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory):
    """A run of a VAE whose sentences are known by heart."""
    folder = tmp_path_factory.mktemp("texts")
    encoder = {
        "class_path": "pyro_vae.networks.RecurrentEncoder",
        "init_args": {"outputs": 16, "embedding_dim": 8, "hidden_dim": 24},
    }
    vae = {"latent_dim": 8, "hidden_dims": [], "likelihood": likelihood(16)}
    recipe = {
        "data": {"name": "sentences"},
        "model": {"class_path": "pyro_vae.models.VAE", "init_args": vae},
        "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"encoder": encoder}},
        "fit": {"epochs": 60, "batch_size": 20, "learning_rate": 0.01, "device": "cpu", "kl_weight": 0.02},
    }
    assert pyro_vae("-q", "train", write(folder, "mine.yaml", recipe), "--trust", "--out", folder / "run") == 0
    return folder / "run"


def test_it_trains(trained):
    assert pyro_vae("reconstruct", trained) == 0
