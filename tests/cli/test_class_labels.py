"""Runs whose prior takes labels that it can be without: which number each command measures, and that it says so."""

import json

import pytest
import yaml

from pyro_vae import ais, log_likelihood, score
from pyro_vae.cli import main
from pyro_vae.runs import Run


def test_evaluation_says_what_it_was_given(tmp_path, capsys):
    """Of data that carry labels: log p(x), unless log p(x | y) is asked for."""
    config = {
        "data": {"name": "mnist5k", "binarization": "static", "limit": 40, "num_labels": 20},
        "model": {
            "class_path": "pyro_vae.models.ClassPriorVAE",
            "init_args": {"prior": {"class_path": "pyro_vae.priors.PinwheelPrior"}, "hidden_dims": [8]},
        },
        "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [8]}},
        "fit": {"epochs": 1, "batch_size": 10, "device": "cpu"},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    run = tmp_path / "run"
    assert main(["train", str(tmp_path / "mine.yaml"), "--out", str(run)]) == 0
    (model, guide), test = Run(run).programs(), Run(run).data().test
    assert bool((Run(run).data().train.batch(slice(None))["y"] == -1).any())
    plain = {"x": test.batch(slice(None))["x"]}
    means = {}
    for given in ([], ["--given", "y"]):
        assert main(["evaluate", str(run), "--particles", "50", "--device", "cpu", *given]) == 0
        printed = capsys.readouterr().out
        assert ("y: log p(x | y)" in printed) == bool(given) and ("y: log p(x), averaged" in printed) != bool(given)
        result = json.loads((run / "evaluation-test.json").read_text())
        assert result["given"] == given[1:]
        means[bool(given)] = result["log_likelihood"]
    assert means[False] == pytest.approx(log_likelihood(model, guide, plain, num_particles=50).mean, abs=1e-4)
    assert means[True] == pytest.approx(log_likelihood(model, guide, test, num_particles=50).mean, abs=1e-4)
    assert means[True] != pytest.approx(means[False], abs=1e-3)
    assert score(model, guide, test, num_particles=2).given == ("y",)
    capsys.readouterr()
    annealing = ["--limit", "4", "--num-temperatures", "3", "--num-chains", "2", "--device", "cpu", "--json"]
    assert main(["ais", str(run), *annealing]) == 0
    found = json.loads(capsys.readouterr().out)["log_likelihood"]
    same = ais(model, guide, {"x": plain["x"][:4]}, num_temperatures=3, num_chains=2)
    assert found == pytest.approx(same.mean, abs=1e-4)
    score_options = ["--limit", "4", "--particles", "2", "--device", "cpu", "--json"]
    for said, given in (([], []), (["--y", "3"], ["y"])):
        assert main(["score", str(run), *score_options, *said]) == 0
        assert json.loads(capsys.readouterr().out).get("given", []) == given
    assert main(["sample", str(run), "--num", "4", "--y", "0,-1"]) == 0
    assert main(["sample", str(run), "--num", "4"]) == 0
    assert main(["evaluate", str(run), "--given", "z", "--device", "cpu"]) == 1
    assert (
        "given: z is nothing that this model averages over where it is not given, which is y" in capsys.readouterr().err
    )
