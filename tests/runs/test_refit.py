"""A guide refitted to a run's model: a run like any other one, and nothing of the first one touched."""

import json
import shutil

import pytest
import torch
from command_line import files, run, write
from safetensors.torch import load_file

import pyro_vae
from pyro_vae.reports.stored import train_command
from pyro_vae.runs import Run

FIT = {"epochs": 4, "batch_size": 20, "device": "cpu", "checkpoint_every": 0.0, "compile": "off"}
VAE = {
    "data": {"name": "mnist5k", "binarization": "threshold", "limit": 100},
    "model": {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [16]}},
    "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [16], "min_scale": 0.01}},
    "objective": {"class_path": "pyro_vae.objectives.IWAE", "init_args": {"num_particles": 3}},
    "fit": FIT | {"kl_weight": 0.5},
}
REFIT = ("--fit.epochs", "4", "--fit.learning_rate", "0.005")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert run("train", write(folder, "vae.yaml", VAE), "--out", folder / "vae") == 0
    return folder


def model_weights(folder):
    return {k: v for k, v in load_file(folder / "model.safetensors").items() if k.startswith("model.")}


def guide_weights(folder):
    return {k: v for k, v in load_file(folder / "model.safetensors").items() if k.startswith("guide.")}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys() and ours
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def refused(capsys, *arguments):
    capsys.readouterr()
    assert run("refit-guide", *arguments) == 1
    return capsys.readouterr().err


def test_it_is_a_run_with_the_same_model_and_another_guide(trained, tmp_path, capsys):
    vae, new = trained / "vae", tmp_path / "new"
    before = files(vae)
    assert run("refit-guide", vae, "--out", new, *REFIT) == 0
    assert files(vae) == before
    assert_equal(model_weights(new), model_weights(vae))
    assert not any(torch.equal(v, guide_weights(vae)[k]) for k, v in guide_weights(new).items())
    config = Run(new).config
    assert config.model == Run(vae).config.model and config.guide == Run(vae).config.guide
    assert config.objective is None and config.fit.kl_weight == 1.0  # training's own, not the first one's
    assert config.fit.batch_size == 20 and config.fit.compile == "off"
    for folder in (vae, new):
        assert run("evaluate", folder, "--particles", "30", "--limit", "10") == 0
    assert run("ais", new, "--limit", "3", "--num-temperatures", "20", "--start", "prior") == 0
    assert run("compare", vae, new, "--out", tmp_path / "c.html") == 0
    assert train_command(Run(new)).startswith(f"pyro-vae refit-guide {vae.resolve()} --out ")
    measured = json.loads((new / "evaluation-test.json").read_text())
    model, guide = pyro_vae.load(new)
    bound = pyro_vae.log_likelihood(model, guide, Run(new).data().test.subset(10), num_particles=30, progress=False)
    assert measured["log_likelihood"] == pytest.approx(bound.mean, abs=1e-6)


def test_another_guide_and_objective(trained, tmp_path):
    how = ("--guide", "FlowGuide", "--guide.min_scale", "0.1", "--objective", "IWAE", "--objective.num_particles", "2")
    assert run("refit-guide", trained / "vae", "--out", tmp_path / "flow", *how, *REFIT) == 0
    config = Run(tmp_path / "flow").config
    assert config.guide.init_args.hidden_dims == [16] and config.guide.init_args.min_scale == 0.1  # the first is kept
    assert config.guide.class_path.endswith("FlowGuide") and config.objective.init_args.num_particles == 2
    assert_equal(model_weights(tmp_path / "flow"), model_weights(trained / "vae"))


def test_it_resumes_to_the_same_result(trained, tmp_path):
    """Further epochs; and a kill before the first checkpoint, when the directory has initial weights alone."""
    vae, straight = trained / "vae", tmp_path / "straight"
    assert run("refit-guide", vae, "--out", straight, *REFIT) == 0
    assert run("refit-guide", vae, "--out", tmp_path / "short", "--fit.epochs", "2", *REFIT[2:]) == 0
    assert run("resume", tmp_path / "short", "--fit.epochs", "4") == 0
    killed = tmp_path / "killed"
    source, config = Run(vae), Run(straight).config
    made = Run.create(killed, config, "made", source.data(), model_of=source)
    assert_equal(model_weights(killed), model_weights(vae))
    assert made.model_of["run"] == str(vae.resolve())
    moved = tmp_path / "elsewhere"
    shutil.move(killed, moved)
    assert run("resume", moved) == 0
    for folder in (tmp_path / "short", moved):
        assert_equal(load_file(folder / "model.safetensors"), load_file(straight / "model.safetensors"))


def test_a_resume_of_another_model_is_refused(trained, tmp_path, capsys):
    new = tmp_path / "new"
    assert run("refit-guide", trained / "vae", "--out", new, *REFIT) == 0
    text = (new / "config.yaml").read_text()
    (new / "config.yaml").write_text(text.replace(Run(new).model_of["weights"], "0" * 64))
    assert run("resume", new, "--fit.epochs", "5") == 1
    assert "model_of" in capsys.readouterr().err


def test_nothing_of_the_run_can_be_lost(trained, tmp_path, capsys):
    vae = tmp_path / "vae"
    shutil.copytree(trained / "vae", vae)
    before = files(vae)
    (tmp_path / "link").symlink_to(vae)
    for out in (vae, vae / "inside", tmp_path, tmp_path / "link", tmp_path / "link" / "inside"):
        assert "lies in" in refused(capsys, vae, "--out", out)
    shutil.copytree(trained / "vae", tmp_path / "other")
    others = files(tmp_path / "other")
    assert "holds a run already" in refused(capsys, vae, "--out", tmp_path / "other")
    assert files(vae) == before and files(tmp_path / "other") == others


def test_what_cannot_be_refitted_is_refused_and_leaves_nothing(trained, tmp_path, capsys):
    vae = tmp_path / "vae"
    shutil.copytree(trained / "vae", vae)
    (vae / "summary.json").unlink()
    assert "is not trained to its end" in refused(capsys, vae, "--out", tmp_path / "new")
    (vae / "priors" / "z").mkdir(parents=True)
    (vae / "priors" / "z" / "config.yaml").write_text("{}")
    assert "priors were learned for its model afterwards (z)" in refused(capsys, vae, "--out", tmp_path / "new")
    prior = {"class_path": "pyro_vae.priors.VampPrior", "init_args": {"num_components": 3}}
    model = VAE["model"] | {"init_args": VAE["model"]["init_args"] | {"prior": prior}}
    config = write(tmp_path, "vamp.yaml", VAE | {"model": model, "fit": FIT | {"epochs": 1}})
    assert run("train", config, "--out", tmp_path / "vamp") == 0
    assert "VampPrior is made of the guide's posteriors" in refused(
        capsys, tmp_path / "vamp", "--out", tmp_path / "new"
    )
    assert not list((tmp_path / "new").glob("*"))
    assert run("refit-guide", "--out", tmp_path / "new") == 2
    assert run("refit-guide", tmp_path / "vamp") == 2
