"""Priors given an image, learned afterwards for a run: of the run's shapes, and given each datum's own image."""

import numpy as np
import pytest
import torch
import yaml
from image_context import SIDES, fields, trained

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.priors import MixtureDensityPrior
from pyro_vae.runs.run import Run

RECIPE = {
    "prior": {
        "class_path": "MixtureDensityPrior",
        "init_args": {
            "num_components": 2,
            "argument": "image",
            "condition": {"class_path": "ContextEncoder", "init_args": {"channels": [6], "dim": 5}},
        },
    },
    "fit": {"epochs": 2, "batch_size": 10, "learning_rate": 0.01},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("priors")
    path = trained(folder, prior_hidden_dims=None)
    (folder / "mdn.yaml").write_text(yaml.safe_dump(RECIPE))
    assert main(["train-prior", str(path), str(folder / "mdn.yaml")]) == 0
    return path


def test_the_prior_has_the_runs_shapes_and_takes_part_in_it(run):
    model, _ = pyro_vae.load(run)
    (prior,) = (module for module in model.modules() if isinstance(module, MixtureDensityPrior))
    assert prior.shape == (2,) and prior.condition.image_shape == (1, *SIDES)
    image = fields(4, 7)["image"]
    drawn = pyro_vae.sample(model, 4, batch={"image": image}, seed=2)
    with torch.random.fork_rng():
        assert drawn["z"].shape == (4, 2)
    x = fields(4, 7)["x"]
    model, guide = pyro_vae.load(run)
    bound = pyro_vae.elbo(model, guide, {"x": x, "image": image}, num_particles=4000, analytic_kl=False)
    q = pyro_vae.posterior_moments(model, guide, {"x": x, "image": image})
    z = torch.distributions.Normal(q["z.mean"], q["z.scale"]).sample((4000,))
    ratio = torch.distributions.Normal(q["z.mean"], q["z.scale"]).log_prob(z).sum(-1) - prior(image=image).log_prob(z)
    error = ratio.std(0) / 4000**0.5
    assert ((bound.kl["z"].float() - ratio.mean(0)).abs() < 6 * error + 1e-3).all()  # of each datum given its image


def test_without_the_runs_shapes_it_is_refused(run, tmp_path):
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["context_shapes"]
    config["model"]["init_args"]["image_shape"] = [1, *SIDES]
    copy = tmp_path / "run"
    copy.mkdir()
    for file in run.rglob("*"):
        if file.is_file() and file.name != "config.yaml":
            (copy / file.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
            (copy / file.relative_to(run)).write_bytes(file.read_bytes())
    (copy / "priors/z/config.yaml").write_bytes((run / "priors/z/config.yaml").read_bytes())
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises((InputError, CorruptFileError), match="image_shape"):
        Run(copy).programs()


def test_commands_measure_with_it(run, capsys):
    assert main(["evaluate", str(run), "--particles", "10"]) == 0
    assert main(["sample", str(run), "--num", "4"]) == 0
    assert np.load(run / "samples.npz")["x"].shape == (4, 2, *SIDES)
    assert main(["figures", str(run)]) == 0
    assert "log p(x | image)" in capsys.readouterr().out


def test_a_prior_given_other_images_than_the_data_have_is_refused(run, tmp_path, capsys):
    recipe = yaml.safe_load(yaml.safe_dump(RECIPE))
    recipe["prior"]["init_args"]["condition"]["init_args"]["image_shape"] = [3, *SIDES]
    (tmp_path / "mdn.yaml").write_text(yaml.safe_dump(recipe))
    fresh = trained(tmp_path, prior_hidden_dims=None)
    capsys.readouterr()
    assert main(["train-prior", str(fresh), str(tmp_path / "mdn.yaml")]) == 1
    told = capsys.readouterr().err
    assert "shape (N, 1, 8, 6) for the model" in told and "shape (N, 3, 8, 6) for its prior" in told
    assert not list(fresh.glob("priors/*/config.yaml"))
