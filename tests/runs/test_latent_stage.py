"""Priors fitted to a run's guide: one command, a part of the run from then on, and never at its expense."""

import json
import shutil
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from command_line import files, run, write
from pyro import poutine
from safetensors.torch import load_file, save_file

import pyro_vae
from pyro_vae.errors import InputError
from pyro_vae.priors import MixturePrior
from pyro_vae.programs.program import as_programs
from pyro_vae.programs.site_priors import WithPriors
from pyro_vae.runs import Run
from pyro_vae.runs.learned_priors import build_latent_prior, parse_prior_config
from pyro_vae.runtime import private_seed
from pyro_vae.training.loop import Trainer

FIT = {
    "epochs": 20,
    "batch_size": 20,
    "device": "cpu",
    "checkpoint_every": 0.0,
    "learning_rate": 5e-3,
    "compile": "off",
}
VAE = {
    "data": {"name": "mnist5k", "binarization": "threshold", "limit": 100},
    "model": {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [16]}},
    "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [16]}},
    "fit": FIT,
}
LADDER = VAE | {
    "model": {
        "class_path": "pyro_vae.models.HierarchicalVAE",
        "init_args": {"latent_dims": [4, 2], "hidden_dims": [16, 8]},
    },
    "guide": {"class_path": "pyro_vae.guides.LadderGuide", "init_args": {"hidden_dims": [16, 8], "merge": "residual"}},
}
PRIOR = {
    "prior": {"class_path": "pyro_vae.priors.MixturePrior", "init_args": {"num_components": 4}},
    "fit": FIT | {"epochs": 6, "learning_rate": 0.02},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    for name, config in (("vae", VAE), ("ladder", LADDER)):
        assert run("train", write(folder, f"{name}.yaml", config), "--out", folder / name) == 0
    return folder


@pytest.fixture
def vae(trained, tmp_path):
    shutil.copytree(trained / "vae", tmp_path / "vae")
    return tmp_path / "vae"


@pytest.fixture
def recipe(tmp_path):
    return write(tmp_path, "prior.yaml", PRIOR)


def evaluated(folder, capsys, *options):
    capsys.readouterr()
    assert run("evaluate", folder, "--json", *options) == 0
    return json.loads(capsys.readouterr().out)


def test_evaluate_gives_the_new_log_p_of_x_and_compare_the_gain(vae, recipe, tmp_path, capsys):
    """Against a sum over a grid of z, and against the guide's own draws."""
    before = files(vae)
    (old, guide), data = pyro_vae.load(vae), Run(vae).data()
    x = data.test.batch(slice(0, 5))["x"]
    assert run("train-prior", vae, recipe, "--fit.epochs", "30") == 0
    assert files(vae) == before
    shutil.copytree(vae, tmp_path / "own", ignore=shutil.ignore_patterns("priors"))
    model, same = pyro_vae.load(vae)
    prior = model.learned_priors["z"]
    assert isinstance(model, WithPriors) and isinstance(prior, MixturePrior) and not model.training
    learned, own = (evaluated(f, capsys, "--particles", "50", "--limit", "5") for f in (vae, tmp_path / "own"))
    side = torch.linspace(-7.0, 7.0, 141)
    z = torch.cartesian_prod(side, side)

    def wide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2), 2.5).to_event(1))

    with torch.no_grad():
        logits = old.decoder(z).flatten(1)  # (cells, 784)
        log_p = x.flatten(1) @ logits.T - torch.nn.functional.softplus(logits).sum(-1)  # (5, cells)
        for p, whose, told in ((prior(), model, learned), (old.prior(), old, own)):
            exact = (log_p + p.log_prob(z)).logsumexp(-1) + 2 * (side[1] - side[0]).log()
            found = pyro_vae.log_likelihood(whose, wide, x, num_particles=8000, progress=False)
            torch.testing.assert_close(found.per_datum.float(), exact, atol=0.25, rtol=0)
            assert told["log_likelihood"] < exact.mean() + 0.1
            same_seed = pyro_vae.log_likelihood(whose, guide, x, num_particles=50, progress=False)
            assert told["log_likelihood"] == pytest.approx(same_seed.mean, abs=1e-4)
        assert learned["reconstruction"] == own["reconstruction"]
        with private_seed(0):
            q = poutine.trace(as_programs(old, same)[1]).get_trace(x=x).nodes["z"]["fn"]
            draws = q.sample((5000,))
            kl = (q.log_prob(draws) - prior().log_prob(draws)).mean()
        assert learned["kl"]["z"] == pytest.approx(kl.item(), abs=0.3)
    assert run("evaluate", tmp_path / "own", "--particles", "100") == 0
    assert run("evaluate", vae, "--particles", "100") == 0
    capsys.readouterr()
    assert run("compare", tmp_path / "own", vae, "--out", tmp_path / "both") == 0
    gains, bounds = [], []
    for folder in (tmp_path / "own", vae):
        with np.load(folder / "evaluation-test.npz") as arrays:
            gains.append(arrays["log_likelihood"])
            bounds.append(arrays["elbo"].mean())
    rows = json.loads((tmp_path / "both" / "comparison.json").read_text())["runs"]
    difference = next(row["difference"] for row in rows if "difference" in row)["log_likelihood"]
    assert difference["mean"] == pytest.approx((gains[1] - gains[0]).mean(), abs=1e-6)
    assert bounds[1] > bounds[0]
    for a, b in zip(guide.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)


def test_samples_figures_and_report_use_it(vae, recipe, capsys):
    assert run("train-prior", vae, recipe) == 0
    model, _ = pyro_vae.load(vae)
    with torch.no_grad():  # a prior far away, that nobody overlooks
        model.learned_priors["z"].moments[:, :2].add_(50.0)
    weights = vae / "priors" / "z" / "model.safetensors"
    pyro_vae.training.checkpoint.save_weights(
        weights, pyro_vae.programs.site_priors.PriorOfSite("z", model.learned_priors["z"]), pyro_vae.guides.EmptyGuide()
    )
    assert run("sample", vae, "--num", "20") == 0
    with np.load(vae / "samples.npz") as drawn:
        assert drawn["z"].min() > 40
    assert run("figures", vae) == 0 and (vae / "figures" / "own_and_learned.png").is_file()
    assert run("report", vae, "--particles", "20") == 0
    page = (vae / "report.html").read_text()
    assert "prior of z" in page and "train-prior" in page and "learned afterwards" in page


def test_of_a_hierarchy_it_is_the_top_and_others_are_refused(trained, tmp_path, recipe, capsys):
    shutil.copytree(trained / "ladder", tmp_path / "ladder")
    model, guide = pyro_vae.load(tmp_path / "ladder")
    x = Run(tmp_path / "ladder").data().test.batch(slice(0, 10))["x"]
    before = densities(model, guide, x)
    assert run("train-prior", tmp_path / "ladder", recipe, "--site", "z1") == 1
    assert "'z1': its distribution depends on what the model draws elsewhere" in capsys.readouterr().err
    assert run("train-prior", tmp_path / "ladder", recipe) == 0
    assert [p.name for p in (tmp_path / "ladder" / "priors").iterdir() if p.is_dir()] == ["z2"]
    model, guide = pyro_vae.load(tmp_path / "ladder")
    after = densities(model, guide, x)
    assert all(torch.equal(before[name], after[name]) for name in ("z1", "z2"))


def densities(model, guide, x):
    """q of the guide's own draws, by site."""
    with torch.no_grad(), private_seed(1):
        nodes = poutine.trace(as_programs(model, guide)[1]).get_trace(x=x).nodes
    return {name: node["fn"].log_prob(node["value"]) for name, node in nodes.items() if name in ("z1", "z2")}


def test_an_interrupted_one_is_said_and_goes_on_to_the_same_end(vae, recipe, tmp_path, monkeypatch, caplog, capsys):
    shutil.copytree(vae, tmp_path / "straight")
    assert run("train-prior", tmp_path / "straight", recipe) == 0
    before, finish = files(vae), Trainer._finish_epoch

    def interrupted(self, started):
        finish(self, started)
        self.interrupts.pressed = True

    monkeypatch.setattr(Trainer, "_finish_epoch", interrupted)
    with pytest.raises(SystemExit):
        run("train-prior", vae, recipe)
    monkeypatch.undo()
    assert files(vae) == before
    model, _ = pyro_vae.load(vae)
    assert not isinstance(model, WithPriors) and "is not trained to its end" in caplog.text
    assert run("train-prior", vae, recipe) == 1
    assert "go on with it (--resume)" in capsys.readouterr().err
    assert run("train-prior", vae, "--resume") == 0
    ours, theirs = (load_file(p / "priors/z/model.safetensors") for p in (vae, tmp_path / "straight"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and ours.keys() == theirs.keys()
    summaries = [json.loads((p / "priors/z/summary.json").read_text()) for p in (vae, tmp_path / "straight")]
    assert summaries[0] | {"seconds": 0} == summaries[1] | {"seconds": 0}
    assert run("train-prior", vae, recipe) == 1
    assert "is learned already" in capsys.readouterr().err


def test_a_run_that_has_other_weights_now_is_refused(vae, recipe, capsys):
    assert run("train-prior", vae, recipe) == 0
    assert run("resume", vae, "--fit.epochs", "60") == 1
    assert "priors were learned for the weights as they are" in capsys.readouterr().err
    weights = load_file(vae / "model.safetensors")
    save_file({name: value + 0.1 for name, value in weights.items()}, vae / "model.safetensors")
    assert run("evaluate", vae, "--particles", "1") == 1
    assert "trained on another guide's draws" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{recipe}", "--site", "y"), "unknown latent site 'y'"),
        (("{recipe}", "--draws", "8"), "draws and text.vocabulary_size are of priors over codes"),
        (("{recipe}", "--conditional", "false"), "its class says what it is conditional on"),
        (("{recipe}", "--fit.epochs", "0"), "epochs must be a positive integer"),
        (("{recipe}", "--prior.num_components", "0"), "num_components must be a positive integer"),
        (("pixelcnn",), "has no codes"),
        (("--resume",), "none is begun"),
    ],
)
def test_what_cannot_be_trained_is_said_and_leaves_no_trace(vae, recipe, capsys, arguments, message):
    assert run("train-prior", vae, *(a.format(recipe=recipe) for a in arguments)) == 1
    assert message in capsys.readouterr().err
    assert not list((vae / "priors").rglob("config.yaml"))
    assert not isinstance(pyro_vae.load(vae)[0], WithPriors)


@pytest.mark.parametrize("change", [{"shape": [3]}, {"shape": "2"}, {"shape": [10**9]}, {"shape": None}])
def test_a_configuration_that_was_changed_is_an_error_and_not_another_model(vae, recipe, capsys, change):
    assert run("train-prior", vae, recipe) == 0
    file = vae / "priors" / "z" / "config.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | change))
    assert run("evaluate", vae, "--particles", "1") in (1, 2)
    assert "shape" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"class_path": "FlowPrior"}, "flows are zuko's, which is not installed: pip install 'pyro-vae[flows]'"),
        ({"class_path": "MixturePrior", "init_args": {"num_components": 0}}, "MixturePrior: num_components must be a "),
        ({"class_path": "AutoregressiveGaussianPrior", "init_args": {"hidden_dims": [1]}}, "AutoregressiveGaussianPr"),
    ],
)
def test_what_its_class_refuses_is_said_in_the_class_own_sentence(prior, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    config = parse_prior_config({"prior": {**prior, "class_path": f"pyro_vae.priors.{prior['class_path']}"}}, "here")
    with pytest.raises(InputError) as error:
        build_latent_prior(config, (2,), {"data_shape": (1, 6, 6)})
    assert str(error.value).startswith(message)


def test_a_prior_in_a_directory_of_another_name_is_not_left_out(vae, recipe, capsys):
    assert run("train-prior", vae, recipe) == 0
    (vae / "priors" / "z").rename(vae / "priors" / "q")
    assert run("evaluate", vae, "--particles", "1") == 1
    assert "a prior of site 'q', and the model has no such site (it has z, x)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vamp", ("--prior.num_components", "5")),
        ("flow", ("--prior.num_layers", "1", "--prior.hidden_dims", "[4]")),
    ],
)
def test_recipes_of_other_priors(vae, name, options):
    fast = ("--fit.epochs", "1", "--fit.compile", "off", "--fit.device", "cpu")
    assert run("train-prior", vae, name, *options, *fast) == 0
    model, guide = pyro_vae.load(vae)
    assert pyro_vae.sample(model, 3)["z"].shape == (3, 2)  # before anybody has run the guide
    x = Run(vae).data().test.batch(slice(0, 5))["x"]
    assert pyro_vae.log_likelihood(model, guide, x, num_particles=5, progress=False).per_datum.isfinite().all()
