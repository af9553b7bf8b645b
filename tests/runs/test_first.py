"""A pair that is trained first: one command, weights by name, and going on in either stage."""

import json

import pytest
import torch
import yaml
from command_line import run
from safetensors.torch import load_file

import pyro_vae
from pyro_vae.recipes import read_recipe
from pyro_vae.runs import run as first_module
from pyro_vae.training.loop import Trainer

TINY = {
    "data": {"name": "mnist5k", "binarization": "dynamic", "observed_quadrants": 2, "limit": 20},
    "first": {
        "model": {"class_path": "pyro_vae.models.CompletionBaseline", "init_args": {"baseline_hidden_dims": [4]}},
        "guide": {"class_path": "pyro_vae.guides.EmptyGuide"},
        "fit": {"epochs": 3, "batch_size": 10, "device": "cpu", "checkpoint_every": 0.0},
    },
    "model": {
        "class_path": "pyro_vae.models.CompletionVAE",
        "init_args": {
            "latent_dim": 2,
            "hidden_dims": [4],
            "prior_hidden_dims": [4],
            "baseline_hidden_dims": [4],
        },
    },
    "guide": {"class_path": "pyro_vae.guides.CompletionGuide", "init_args": {"hidden_dims": [4]}},
    "fit": {"epochs": 4, "batch_size": 10, "device": "cpu", "checkpoint_every": 0.0},
}


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(TINY))
    return file


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_one_command_trains_both(recipe, tmp_path, monkeypatch, capsys):
    started, start_from = [], first_module.start_from
    monkeypatch.setattr(
        "pyro_vae.runs.run.start_from",
        lambda main, *pair: (
            start_from(main, *pair),
            started.append({k: v.clone() for k, v in main.model.state_dict().items()}),
        ),
    )
    out = tmp_path / "run"
    assert run("train", recipe, "--out", out) == 0
    before, after = weights(out / "first"), weights(out)
    shared = [n for n in before if n in after]
    assert shared == list(before) and len(shared) == 4 and all(n.startswith("model.baseline.") for n in shared)
    for name in shared:
        assert torch.equal(started[0][name.removeprefix("model.")], before[name])
        assert not torch.equal(after[name], before[name])  # trained on, jointly
    config = yaml.safe_load((out / "first" / "config.yaml").read_text())
    assert config["data"]["observed_quadrants"] == 2 and config["fit"]["epochs"] == 3 and "first" not in config
    capsys.readouterr()
    for folder in (out, out / "first"):  # both are runs like any other
        assert run("evaluate", folder, "--particles", 3, "--json") == 0
        result = json.loads(capsys.readouterr().out)
        missing = 392 * torch.tensor(2.0).log().item()
        assert result["bits_per_dim"] == pytest.approx(-result["log_likelihood"] / missing)
        assert run("figures", folder) == 0
        capsys.readouterr()
    assert run("train", recipe, "--out", out) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert run("resume", out) == 0  # finished: stays as it is
    assert all(torch.equal(v, after[n]) for n, v in weights(out).items())


@pytest.mark.parametrize("stop", [3, 7, 13])  # 2 steps an epoch: in the first stage, just after it, in the main one
def test_interrupted_in_either_stage(stop, recipe, tmp_path, monkeypatch):
    assert run("train", recipe, "--out", tmp_path / "whole") == 0
    real, calls = Trainer._one_step, []

    def pressed(self, epoch):
        calls.append(epoch)
        if len(calls) == stop:
            self.interrupts.pressed = True
        return real(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one_step", pressed)
        with pytest.raises(SystemExit) as caught:
            run("train", recipe, "--out", tmp_path / "run")
    assert caught.value.code == 130
    assert (tmp_path / "run" / "checkpoints").exists() == (stop > 6)
    pyro_vae.load(tmp_path / "run")  # readable at any moment
    assert run("resume", tmp_path / "run") == 0
    for part in ("", "first"):
        whole, gone_on = (weights(tmp_path / name / part) for name in ("whole", "run"))
        assert all(torch.equal(v, gone_on[n]) for n, v in whole.items())


def test_a_kill_between_the_stages(recipe, tmp_path, monkeypatch):
    """After the first stage's end and before the main one's start nothing is lost, and nothing is trained twice."""
    assert run("train", recipe, "--out", tmp_path / "whole") == 0

    def killed(*arguments):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("pyro_vae.runs.run.start_from", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run("train", recipe, "--out", tmp_path / "run")
    log = (tmp_path / "run" / "first" / "metrics.jsonl").read_bytes()
    assert run("resume", tmp_path / "run") == 0
    assert (tmp_path / "run" / "first" / "metrics.jsonl").read_bytes() == log
    assert all(torch.equal(v, weights(tmp_path / "whole")[n]) for n, v in weights(tmp_path / "run").items())


def test_options_of_the_first_pair(recipe, tmp_path):
    assert run("train", recipe, "--out", tmp_path / "run", "--first.fit.epochs", 1) == 0
    assert len((tmp_path / "run" / "first" / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": {**TINY["first"], "modle": {}}}, "first 'modle'. Did you mean 'model'?"),
        ({"first": {**TINY["first"], "fit": {"epochs": 0}}}, "epochs must be a positive integer"),
        (
            {
                "first": {
                    "model": {
                        "class_path": "pyro_vae.models.VAE",
                        "init_args": {"latent_dim": 3, "decoder": "conv", "hidden_dims": [2]},
                    },
                    "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [5]}},
                    "fit": TINY["first"]["fit"],
                }
            },
            "first: no weight of its model and guide has the name and shape",
        ),
        ({"data": {"name": "mnist5k", "binarization": "static", "limit": 20}}, "the model needs mask"),
    ],
)
def test_what_is_refused_leaves_no_run_behind(change, message, tmp_path, capsys):
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(TINY | change))
    assert run("train", file, "--out", tmp_path / "run") == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("run/**/*.yaml")) and not list(tmp_path.glob("run/**/*.pt"))


def test_recipes_without_a_first_pair_have_no_such_section():
    from pyro_vae.runs.config import experiment_parser, parse_config

    config = read_recipe("vae")
    assert "first" not in parse_config(experiment_parser(config), config, "vae")
