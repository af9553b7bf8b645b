"""``pyro-vae sample`` with context."""

import logging

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pyro_vae.cli import main

FIT = {"epochs": 1, "batch_size": 10, "device": "cpu"}


def recipe(model, guide, data):
    small = {"name": "mnist5k", "binarization": "threshold", "limit": 20}
    return {"data": small | data, "model": model, "guide": guide, "fit": FIT}


def trained(folder, config):
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(folder / "mine.yaml"), "--trust", "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    model = {"class_path": "pyro_vae.models.ConditionalVAE", "init_args": {"latent_dim": 2, "hidden_dims": [4]}}
    guide = {"class_path": "pyro_vae.guides.ConditionalGuide", "init_args": {"hidden_dims": [4]}}
    return trained(tmp_path_factory.mktemp("labelled"), recipe(model, guide, {}))


@pytest.fixture(scope="module")
def with_attributes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attributes")
    generator = np.random.default_rng(0)
    x = (generator.random((40, 1, 8, 8)) < 0.5).astype(np.float32)
    np.savez(folder / "mine.npz", x=x, y=generator.normal(size=(40, 3)).astype(np.float32))
    condition = {"class_path": "pyro_vae.networks.Attributes", "init_args": {"dim": 3}}
    model = {
        "class_path": "pyro_vae.models.ConditionalVAE",
        "init_args": {"condition": condition, "latent_dim": 2, "hidden_dims": [4]},
    }
    guide = {"class_path": "pyro_vae.guides.ConditionalGuide", "init_args": {"hidden_dims": [4]}}
    return trained(folder, recipe(model, guide, {"name": str(folder / "mine.npz"), "binarization": "none"}))


@pytest.fixture(scope="module")
def completing(tmp_path_factory):
    sizes = {"latent_dim": 2, "hidden_dims": [4], "prior_hidden_dims": [4], "baseline_hidden_dims": [4]}
    model = {"class_path": "pyro_vae.models.CompletionVAE", "init_args": sizes}
    guide = {"class_path": "pyro_vae.guides.CompletionGuide", "init_args": {"hidden_dims": [4]}}
    return trained(tmp_path_factory.mktemp("completing"), recipe(model, guide, {"observed_quadrants": 2}))


def drawn(run, *arguments):
    assert main(["sample", str(run), *arguments]) == 0
    with Image.open(run / "figures" / "samples.png") as image:
        image.verify()
    return dict(np.load(run / "samples.npz"))


def refused(capsys, run, *arguments):
    capsys.readouterr()
    assert main(["sample", str(run), *arguments]) == 1
    return capsys.readouterr().err


def test_one_label(labelled):
    arrays = drawn(labelled, "--y", "7", "--num", "5")
    assert arrays["y"].tolist() == [7] * 5 and arrays["x"].shape == (5, 1, 28, 28) and arrays["z"].shape == (5, 2)
    again = drawn(labelled, "--y", "7", "--num", "5")
    assert np.array_equal(arrays["x"], again["x"])
    other = drawn(labelled, "--y", "3", "--num", "5")
    assert not np.array_equal(arrays["x.mean"], other["x.mean"])


def test_several_labels_take_turns(labelled):
    assert drawn(labelled, "--y", "0,1,2", "--num", "7")["y"].tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_attribute_vectors(with_attributes):
    arrays = drawn(with_attributes, "--y", "0.5,-1,2", "--num", "3")
    assert arrays["y"].tolist() == [[0.5, -1, 2]] * 3
    assert drawn(with_attributes, "--y", "0,0,0;1,1,1", "--num", "3")["y"][:, 0].tolist() == [0, 1, 0]


def test_completion_takes_observed_parts_of_the_test_data(completing, caplog):
    with caplog.at_level(logging.INFO):
        arrays = drawn(completing, "--num", "6")
    assert "y, mask: taken from 6 of the data mnist5k test" in caplog.text
    assert arrays["mask"].shape == (6, 1, 28, 28) and arrays["mask"].mean() == 0.5
    for name in ("x", "x.mean"):
        assert np.array_equal(arrays[name][arrays["mask"]], arrays["y"][arrays["mask"]])  # what is given stays
    assert len(drawn(completing, "--num", "500")["x"]) == 20  # as many as there are


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the model needs y (class labels from 0 to 9): say which, e.g. --y 7 or --y 0,1,2"),
        (["--y", "10"], "argument 'y' takes class labels from 0 to 9"),
        (["--y", "0,-1"], "got values from -1 to 0"),
        (["--y", "seven"], "--y takes class labels from 0 to 9, e.g. --y 7 or --y 0,1,2; got 'seven'\n"),
        (["--y", "0.5"], "got '0.5'"),
        (["--y", "7", "--num", "0"], "--num must be a positive integer"),
    ],
)
def test_labels_that_are_refused(arguments, message, labelled, capsys):
    assert message in refused(capsys, labelled, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the model needs y (vectors of 3 attributes): say which, e.g. --y 0.5,0.5,0.5"),
        (["--y", "1,2"], "argument 'y' takes vectors of 3 attributes"),
        (["--y", "1,2,3;1,2"], "the vectors differ in length"),
        (["--y", "a,b,c"], "--y takes vectors of 3 attributes"),
    ],
)
def test_attributes_that_are_refused(arguments, message, with_attributes, capsys):
    assert message in refused(capsys, with_attributes, *arguments)


def test_latent_scales(labelled):
    assert main(["sample", str(labelled), "--num", "6", "--y", "1"]) == 0
    full = np.load(labelled / "samples.npz")
    assert main(["sample", str(labelled), "--num", "6", "--y", "1", "--scale", "z=0.25"]) == 0
    small = np.load(labelled / "samples.npz")
    spread = {name: arrays["z"] - arrays["z"].mean(0) for name, arrays in (("full", full), ("small", small))}
    np.testing.assert_allclose(spread["small"], 0.25 * spread["full"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ("z4=0.5", "latent site 'z4'"),
        ("z=half", "--scale takes factors by latent site, e.g. --scale z1=0.5,z2=0.1; got 'z=half'"),
        ("z=-1", "-1"),
    ],
)
def test_latent_scales_that_are_refused(scale, message, labelled, capsys):
    assert main(["sample", str(labelled), "--y", "1", "--scale", scale]) == 1
    assert message in capsys.readouterr().err


def test_y_for_a_model_that_cannot_be_told(completing, tmp_path, capsys):
    assert "its y, mask are taken from the test data" in refused(capsys, completing, "--y", "7")
    model = {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [4]}}
    run = trained(tmp_path, recipe(model, {"class_path": "pyro_vae.guides.GaussianGuide"}, {}))
    assert "it is not conditional" in refused(capsys, run, "--y", "7")


def test_evaluate_and_resume_of_a_conditional_run(labelled, capsys):
    before = (labelled / "model.safetensors").read_bytes()
    assert main(["resume", str(labelled)]) == 0
    assert main(["evaluate", str(labelled), "--particles", "3"]) == 0
    assert "log-likelihood (K = 3)" in capsys.readouterr().out
    assert (labelled / "model.safetensors").read_bytes() == before
    assert torch.get_default_dtype() == torch.float32
