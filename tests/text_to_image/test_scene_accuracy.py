"""The script that measures how many scenes come out right, on a model that draws half of them."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pyro
import pytest
import torch
from made_scenes import made_scenes
from pyro import distributions as dist

from pyro_vae import runs
from pyro_vae.data import Data, Split, Tokenizer
from pyro_vae.data.sources.emoji import draw_scenes
from pyro_vae.errors import InputError
from pyro_vae.text_to_image import ranker, scene_scorer

SCRIPT = Path(__file__).parents[2] / "examples" / "scene_accuracy.py"


@pytest.fixture
def measure(monkeypatch, capsys):
    """Run the script; returns its lines, and the coins that were thrown."""
    scenes, parts, coins = made_scenes(8), draw_scenes(8, 200), []
    captions = {part: scenes.captions(*drawn) for part, drawn in parts.items()}
    splits = {part: Split({"x": scenes.draw(*drawn)}, captions=captions[part]) for part, drawn in parts.items()}
    data = Data(**splits, extras=(scenes,))
    tokenizer = Tokenizer.train(captions["train"])

    def model(x=None, text=None, num_samples=1):
        told = scenes.draw(*scenes.parse(tokenizer.decode(text))) / 255
        with pyro.plate("data", num_samples, dim=-1):
            coin = pyro.sample("coin", dist.Bernoulli(0.5))
            coins.extend(coin.tolist())
            shown = torch.where(coin[:, None, None, None] > 0, told, 1.0)  # the scene, or nothing
            return pyro.sample("x", dist.Normal(shown, 0.1).to_event(3), obs=x)

    def run(*options, ranked=True):
        stub = SimpleNamespace(programs=lambda: (model, None), data=lambda: data, tokenizer=lambda: tokenizer)
        monkeypatch.setattr(runs, "Run", lambda _: stub)
        monkeypatch.setattr(ranker, "load_ranker", lambda _: scene_scorer(scenes) if ranked else None)
        monkeypatch.setattr(sys, "argv", ["scene_accuracy.py", "runs/none", *options])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()], coins

    return run


def test_one_of_one_and_one_of_many(measure):
    (one, many), coins = measure("--best-of", "1", "16", "--limit", "24")
    assert [told["best_of"] for told in (one, many)] == [1, 16] and one["num_images"] == many["num_images"] == 24
    assert len(coins) == 24 * 17 and 0 < sum(coins[:24]) < 24
    assert one["scene_accuracy"] == one["object_accuracy"] == pytest.approx(sum(coins[:24]) / 24)
    assert many["scene_accuracy"] == many["object_accuracy"] == 1


def test_what_cannot_be_measured(measure):
    with pytest.raises(InputError, match="has no ranker: pyro-vae train-ranker runs/none, or --best-of 1"):
        measure(ranked=False)
    with pytest.raises(InputError, match="--limit must be a positive integer, got 0"):
        measure("--limit", "0")
