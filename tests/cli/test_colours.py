"""A run of colours given lightness on the command line: its data, files given to it, what is measured of it."""

import json

import numpy as np
import pytest
import torch
from command_line import run, write
from PIL import Image

from pyro_vae.data import LabPictures
from pyro_vae.data.colours import coloured
from pyro_vae.runs import Run

SIZES = {"channels": [4, 4]}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A run on a folder of colour images, with a mixture as prior learned afterwards; and the folder."""
    folder = tmp_path_factory.mktemp("colours")
    generator = np.random.default_rng(0)
    for part, count in (("train", 24), ("validation", 6), ("test", 6)):
        (folder / "data" / part).mkdir(parents=True)
        for i in range(count):
            image = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            image.save(folder / "data" / part / f"{i}.png")
    likelihood = {"class_path": "pyro_vae.likelihoods.GaussianField", "init_args": {"num_components": 3}}
    model = {"latent_dim": 2, "prior_hidden_dims": None, "likelihood": likelihood, **SIZES}
    recipe = {
        "data": {"name": str(folder / "data"), "colours": "lab"},
        "model": {"class_path": "pyro_vae.models.FieldVAE", "init_args": model},
        "guide": {"class_path": "pyro_vae.guides.FieldGuide", "init_args": {"context_dim": 4, **SIZES}},
        "fit": {"epochs": 2, "batch_size": 8, "device": "cpu"},
    }
    assert run("train", write(folder, "colours.yaml", recipe), "--out", folder / "run") == 0
    arguments = ["--prior.condition.channels", "[4]", "--fit.epochs", 2, "--fit.device", "cpu"]
    assert run("train-prior", folder / "run", "mdn", *arguments) == 0
    return folder / "run", folder / "data"


def test_the_run_knows_its_pictures_and_its_components(colours):
    made = Run(colours[0])
    assert isinstance(made.pictures, LabPictures) and made.data_shape == (2, 8, 8)
    model, _ = made.stage_one()
    assert model.likelihood.data_wanted == 0 and float(model.likelihood.components[0].square().sum()) > 0.99
    x = made.data().train.batch(slice(None))["x"].flatten(1).double().numpy()
    vectors = np.linalg.eigh(np.cov(x.T))[1]
    assert abs(vectors[:, -1] @ model.likelihood.components[0].flatten().double().numpy()) > 0.999


def test_it_is_measured_by_its_draws(colours, capsys):
    capsys.readouterr()
    assert run("evaluate", colours[0], "--particles", 5, "--device", "cpu", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    best = found["metrics"]["draws_given_context"]["summary"]["best_of"]
    assert best["8"] <= best["4"] <= best["2"] <= best["1"] and found["given"] == ["image"]


def test_files_become_what_the_data_are(colours, tmp_path, capsys):
    folder, data = colours
    run("evaluate", folder, "--particles", 5, "--device", "cpu")
    arguments = ["--particles", 5, "--device", "cpu", "--json"]
    capsys.readouterr()
    assert run("score", folder, data / "test" / "0.png", data / "test" / "1.png", *arguments) == 0
    assert json.loads(capsys.readouterr().out)
    x = np.stack([np.asarray(Image.open(data / "test" / f"{i}.png")) for i in range(2)])
    np.savez(tmp_path / "x.npz", x=np.moveaxis(x, -1, 1))
    capsys.readouterr()
    assert run("score", folder, tmp_path / "x.npz", *arguments) == 0
    found = json.loads(capsys.readouterr().out)
    own = coloured({"x": torch.from_numpy(np.moveaxis(x, -1, 1).copy())}, "x")  # as they are to the model, by name
    np.savez(tmp_path / "own.npz", **{name: value.numpy() for name, value in own.items()})
    assert run("score", folder, tmp_path / "own.npz", *arguments) == 0
    again = json.loads(capsys.readouterr().out)
    assert {**again, "seconds": found["seconds"], "split": found["split"]} == found
    Image.new("L", (8, 8)).save(tmp_path / "grey.png")
    capsys.readouterr()
    assert run("score", folder, tmp_path / "grey.png", *arguments) == 1
    assert "is a grey image, and the run's data are colours" in capsys.readouterr().err


def test_a_grey_picture_gets_colours(colours, tmp_path):
    Image.new("L", (8, 8), 128).save(tmp_path / "grey.png")
    before = set(colours[0].rglob("*.png"))
    assert run("sample", colours[0], "--given", tmp_path / "grey.png", "--num", 4) == 0
    (picture,) = set(colours[0].rglob("*.png")) - before
    levels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert (levels.max(-1) - levels.min(-1)).max() > 2  # it has colours


def test_the_likelihood_on_another_field_is_refused(colours):
    likelihood = Run(colours[0]).stage_one()[0].likelihood
    with pytest.raises(Exception, match="features are of shape"):
        likelihood(torch.zeros(1, 2, 9, 8))
