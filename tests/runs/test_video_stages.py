"""The two stages of a video run by the commands: a codec, a prior given actions or none, an interrupted one."""

import json
import shutil

import pytest
import torch
from command_line import run, write
from safetensors.torch import load_file

import pyro_vae
from pyro_vae.priors import FramePixelCNN
from pyro_vae.runs import Run
from pyro_vae.training.loop import Trainer

FIT = {"epochs": 2, "batch_size": 10, "device": "cpu", "checkpoint_every": 0.0}
CODEC = {
    "data": {"name": "grid-world", "clips": 20, "steps": 3, "limit": 20},
    "model": {
        "class_path": "pyro_vae.models.VideoVQVAE",
        "init_args": {"num_codes": 5, "channels": 4, "block_channels": 3, "num_blocks": 1, "code_dim": 3},
    },
    "guide": {"class_path": "pyro_vae.guides.VideoVQGuide"},
    "fit": FIT,
}
CODEC["model"]["init_args"]["likelihood"] = {
    "class_path": "pyro_vae.likelihoods.Gaussian",
    "init_args": {"scale": 0.1},
}
PRIOR = {
    "prior": {"class_path": "pyro_vae.priors.FramePixelCNN", "init_args": {"channels": 4, "num_layers": 2}},
    "fit": FIT,
}


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    assert run("train", write(folder, "codec.yaml", CODEC), "--out", folder / "run") == 0
    return folder / "run"


@pytest.fixture
def video(codec, tmp_path):
    return shutil.copytree(codec, tmp_path / "video")


@pytest.fixture
def recipe(tmp_path):
    return write(tmp_path, "prior.yaml", PRIOR)


def test_a_prior_given_actions_and_one_without(video, recipe, tmp_path, capsys):
    without = shutil.copytree(video, tmp_path / "without")
    assert run("train-prior", recipe, "--on", video) == 0
    assert run("train-prior", recipe, "--on", without, "--conditional", "false") == 0
    kept = load_file(video / "priors" / "codes.safetensors")
    assert {"test/codes", "test/codes_frames", "test/actions"} <= set(kept)
    data = Run(video).data().test.batch(slice(None))
    for folder, num_actions in ((video, 3), (without, None)):
        model, guide = pyro_vae.load(folder)
        prior = model.priors["codes"]
        assert isinstance(prior, FramePixelCNN) and prior.num_actions == num_actions and not prior.training
        ours = pyro_vae.elbo(model, guide, data, num_particles=1).per_datum
        other = data | {"actions": (data["actions"] + 1) % 3}
        assert torch.equal(pyro_vae.elbo(model, guide, other, num_particles=1).per_datum, ours) == (num_actions is None)
    capsys.readouterr()
    assert run("evaluate", video, "--particles", "1", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["given"] == ["actions", "frames"] and result["density"]
    with torch.no_grad():  # the codes' part of the bound, of what was kept
        given = {"codes_frames": kept["test/codes_frames"], "actions": kept["test/actions"]}
        model = pyro_vae.load(video)[0]
        nats = -model.priors["codes"](**given).log_prob(kept["test/codes"]).double().mean().item()
    assert abs(result["kl"]["codes"] - nats) < 1e-3 * nats


def test_an_interrupted_prior_is_gone_on_with_to_the_same_end(video, recipe, tmp_path, monkeypatch):
    straight = shutil.copytree(video, tmp_path / "straight")
    assert run("train-prior", recipe, "--on", straight) == 0
    finish = Trainer._finish_epoch

    def interrupted(self, started):
        finish(self, started)
        self.interrupts.pressed = True

    monkeypatch.setattr(Trainer, "_finish_epoch", interrupted)
    with pytest.raises(SystemExit):
        run("train-prior", recipe, "--on", video)
    monkeypatch.undo()
    assert not (video / "priors/codes/summary.json").exists()
    assert run("train-prior", "--on", video, "--resume") == 0
    ours, theirs = (load_file(p / "priors/codes/model.safetensors") for p in (video, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_prior_of_single_grids_is_refused(video, capsys):
    assert run("train-prior", "pixelcnn", "--on", video) == 1
    assert "FramePixelCNN for the grids of several frames" in capsys.readouterr().err
