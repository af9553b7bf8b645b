"""``pyro-vae score my.yaml --trust``: a pair that was trained elsewhere, measured without a run."""

import json
import sys

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import pyro_vae
from pyro_vae.adapters import from_modules
from pyro_vae.cli import main
from pyro_vae.likelihoods import Bernoulli

PROGRAMS = """
import torch
from torch import nn
from pyro_vae.adapters import from_modules
from pyro_vae.likelihoods import Bernoulli

encoder, decoder = nn.Linear(6, 4), nn.Linear(2, 6)
LOAD
pair = from_modules(encoder, decoder, torch.zeros(2, 6), likelihood=Bernoulli())


def model(x=None, num_samples=1):
    return pair[0](x, num_samples=num_samples)


def guide(x):
    return pair[1](x)
"""
LOAD = """
weights = torch.load("WEIGHTS", weights_only=True)
encoder.load_state_dict(weights["encoder"]), decoder.load_state_dict(weights["decoder"])
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    weights = {"encoder": nn.Linear(6, 4).state_dict(), "decoder": nn.Linear(2, 6).state_dict()}
    torch.save(weights, tmp_path / "weights.pt")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, (40, 6)).astype(np.float32))
    return tmp_path, weights


def written(folder, name, load):
    source = PROGRAMS.replace("LOAD", load.replace("WEIGHTS", str(folder / "weights.pt")))
    (folder / f"{name}.py").write_text(source)
    config = {"data": {"name": "x.npy"}, "model": f"{name}.model", "guide": f"{name}.guide"}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return f"{name}.yaml"


def test_a_pair_of_ones_own_is_scored(folder, capsys):
    folder, weights = folder
    file = written(folder, "loaded_pair_of_mine", LOAD)
    files = {path.name for path in folder.iterdir()}
    line = ["score", file, "--trust", "--particles", "200", "--out", "s.npz", "--json", "--device", "cpu"]
    assert main(line) == 0
    scores = np.load("s.npz")["log_likelihood"]
    encoder, decoder = nn.Linear(6, 4), nn.Linear(2, 6)
    encoder.load_state_dict(weights["encoder"])
    decoder.load_state_dict(weights["decoder"])
    test = pyro_vae.load_data("x.npy").test
    pair = from_modules(encoder, decoder, torch.zeros(2, 6), likelihood=Bernoulli())
    found = pyro_vae.log_likelihood(*pair, test, num_particles=200, progress=False)
    assert np.array_equal(scores, found.per_datum.numpy())
    assert json.loads(capsys.readouterr().out)["log_likelihood"] == pytest.approx(found.mean, abs=1e-4)
    assert {path.name for path in folder.iterdir()} - files <= {"s.npz", "__pycache__"}  # no run is left


def test_a_pair_whose_weights_are_drawn_at_random_is_no_trained_one(folder, capsys):
    file = written(folder[0], "random_pair_of_mine", "")
    assert main(["score", file, "--trust", "--particles", "20"]) == 1
    assert "drawn at random" in capsys.readouterr().err


def test_nothing_of_a_file_is_run_without_trust(folder, capsys):
    file = written(folder[0], "untrusted_pair_of_mine", "open('ran', 'w')")
    assert main(["score", file, "--particles", "20"]) == 1
    assert "trust" in capsys.readouterr().err
    assert not (folder[0] / "ran").exists()


def test_a_file_that_is_not_there_is_told(folder, capsys):
    assert main(["score", "none.yaml", "--trust"]) == 1
    assert "none.yaml does not exist" in capsys.readouterr().err
