"""``pyro-vae evaluate``: what it says of the weights, and the files that it leaves."""

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from pyro_vae.cli import main
from pyro_vae.data.split import split_digest
from pyro_vae.evaluation import elbo, log_likelihood
from pyro_vae.runs import Run

ARRAYS = {"log_likelihood", "elbo", "effective_sample_size", "pareto_k"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose decoder's weights were made so large that the guide fits none of the data."""
    folder = tmp_path_factory.mktemp("evaluate")
    config = {
        "data": {"name": "mnist5k", "binarization": "threshold", "limit": 40},
        "model": {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 5, "hidden_dims": [8]}},
        "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [8]}},
        "fit": {"epochs": 1, "batch_size": 10, "device": "cpu"},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(folder / "mine.yaml"), "--trust", "--out", str(folder / "run")]) == 0
    weights = load_file(folder / "run" / "model.safetensors")
    save_file({k: 5 * v if "decoder" in k else v for k, v in weights.items()}, folder / "run" / "model.safetensors")
    return folder / "run"


def evaluated(run, capsys, *options):
    capsys.readouterr()
    assert main(["evaluate", str(run), "--device", "cpu", *options]) == 0
    said = capsys.readouterr()
    arrays = dict(np.load(run / "evaluation-test.npz"))
    return json.loads((run / "evaluation-test.json").read_text()), arrays, said.out


def row(printed, name):
    (line,) = [line for line in printed.splitlines() if line.strip().startswith(name)]
    return line.strip().removeprefix(name).strip()


def test_the_numbers_of_every_datum_are_written(run, capsys):
    result, arrays, printed = evaluated(run, capsys, "--particles", "200", "--json")
    assert json.loads(printed) == result
    model, guide = Run(run).programs()
    test = Run(run).data().test
    expected = log_likelihood(model, guide, test, num_particles=200)
    assert set(arrays) == ARRAYS and all(a.shape == (len(test),) and a.dtype == np.float64 for a in arrays.values())
    assert np.array_equal(arrays["log_likelihood"], expected.per_datum.numpy())
    assert np.array_equal(arrays["effective_sample_size"], expected.effective_sample_size.numpy())
    assert np.array_equal(arrays["pareto_k"], expected.pareto_k.numpy())
    assert np.array_equal(arrays["elbo"], elbo(model, guide, test).per_datum.numpy())
    assert result["log_likelihood"] == pytest.approx(arrays["log_likelihood"].mean())
    assert result["elbo"] == pytest.approx(arrays["elbo"].mean())
    assert result["data_digest"] == split_digest(test)


def test_a_heavy_tail_is_warned_of(run, capsys, caplog):
    result, arrays, printed = evaluated(run, capsys, "--particles", "200")
    above = int((arrays["pareto_k"] > 0.7).sum())
    assert above > 0, "the run is too good for this to test anything"
    assert result["pareto_k_above"] == above / len(arrays["pareto_k"])
    assert result["pareto_k_max"] == arrays["pareto_k"].max()
    share = f"above 0.7 for {100 * above / len(arrays['pareto_k']):.1f}% of the data"
    assert row(printed, "Pareto k-hat") == f"{result['pareto_k_max']:.2f} at most, {share}"
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert said == [f"warning: {sentence}" for sentence in result["warnings"]] and len(said) == 1
    assert f"above 0.7 for {above} of {len(arrays['pareto_k'])} data" in said[0]


def test_too_few_particles_are_no_reason_to_warn(run, capsys, caplog):
    result, arrays, printed = evaluated(run, capsys, "--particles", "20", "--limit", "3")
    assert np.isnan(arrays["pareto_k"]).all() and len(arrays["pareto_k"]) == 3
    assert (result["pareto_k_max"], result["pareto_k_above"], result["warnings"]) == (None, None, [])
    assert row(printed, "Pareto k-hat") == "none: it takes 21 particles or more, whose weights differ"
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_other_data_have_another_digest(run, capsys):
    digests = [
        evaluated(run, capsys, "--particles", "1", *options)[0]["data_digest"]
        for options in (["--limit", "3"], ["--limit", "4"], ["--limit", "3", "--seed", "7"])
    ]
    assert digests[0] == digests[2] != digests[1]


def test_a_file_that_cannot_be_written_leaves_the_old_one(run, capsys, monkeypatch):
    before, arrays, _ = evaluated(run, capsys, "--particles", "30", "--limit", "3")

    def full(path, **arrays):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert main(["evaluate", str(run), "--particles", "40", "--limit", "3", "--device", "cpu"]) == 1
    said = capsys.readouterr()
    assert "cannot write" in said.err
    assert row(said.out, "log-likelihood (K = 40)").endswith(" nats")  # the number is not lost
    assert json.loads((run / "evaluation-test.json").read_text()) == before
    left = dict(np.load(run / "evaluation-test.npz"))
    assert all(np.array_equal(left[name], arrays[name], equal_nan=True) for name in ARRAYS)
    assert torch.tensor(left["pareto_k"]).isfinite().all()
    assert not list(run.glob(".evaluation*"))
