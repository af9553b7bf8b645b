"""The command line on a run whose model has codes and a label-conditional prior over them."""

import json
import re

import code_pairs
import numpy as np
import pytest
import yaml
from PIL import Image

from pyro_vae.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return code_pairs.labelled_run(tmp_path_factory.mktemp("codes"))


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main([*arguments]) == 1
    return capsys.readouterr().err


def test_evaluate_tells_of_the_codes(run, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(run), "--trust", "--particles", "50"]) == 0
    rows = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    result = json.loads((run / "evaluation-test.json").read_text())
    codes = result["codes"]["codes"]
    assert result["num_particles"] == 1 and result["effective_sample_size"] == 1.0
    assert codes["num_codes"] == 8 and codes["shape"] == [4, 4]
    bits = result["kl"]["codes"] / (16 * np.log(2))
    assert codes["kl_bits_per_code"] == pytest.approx(bits)
    used = f"{codes['num_used']} of 8 in use ({100 * codes['usage']:.0f}%), perplexity {codes['perplexity']:.0f}"
    assert rows["codes of codes"] == used
    assert rows["KL of codes"] == f"{result['kl']['codes']:.2f} nats, {bits:.2f} bits per code"
    assert rows["KL of z"] == "0.00 nats" and {"log-likelihood (K = 1)", "bits per dimension"} <= set(rows)
    assert main(["evaluate", str(run), "--trust", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["codes"]["codes"]["perplexity"] == codes["perplexity"]


def test_a_label_is_needed_to_sample_and_the_prior_can_be_tempered(run, capsys):
    said = refused(capsys, "sample", str(run), "--trust")
    assert "the model needs y (class labels from 0 to 2): say which, e.g. --y" in said
    assert "got values from 3 to 3" in refused(capsys, "sample", str(run), "--trust", "--y", "3")
    assert main(["sample", str(run), "--trust", "--y", "2", "--num", "30"]) == 0
    plain = dict(np.load(run / "samples.npz"))
    assert plain["y"].tolist() == [2] * 30 and plain["codes"].shape == (30, 4, 4) and plain["codes"].dtype == np.int64
    options = ["--y", "2", "--num", "30", "--temperature", "0.001"]
    assert main(["sample", str(run), "--trust", *options]) == 0
    cold = dict(np.load(run / "samples.npz"))
    assert (cold["codes"] == cold["codes"][0]).all() and not (plain["codes"] == plain["codes"][0]).all()
    assert main(["sample", str(run), "--trust", "--y", "2", "--num", "30", "--top_k", "1"]) == 0
    assert (np.load(run / "samples.npz")["codes"] == cold["codes"]).all()
    with Image.open(run / "figures" / "samples.png") as image:
        image.verify()
    for option, words in (("--temperature=0", "temperature must be a positive number"), ("--top_k=0", "top_k")):
        assert words in refused(capsys, "sample", str(run), "--trust", "--y", "2", option)


def test_temperature_of_a_model_without_such_a_prior(tmp_path, capsys):
    config = {
        "data": {"name": "mnist5k", "binarization": "threshold", "limit": 20},
        "model": {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [4]}},
        "guide": {"class_path": "pyro_vae.guides.GaussianGuide"},
        "fit": {"epochs": 1, "batch_size": 10, "device": "cpu", "compile": "off"},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(tmp_path / "mine.yaml"), "--trust", "--out", str(tmp_path / "run")]) == 0
    assert "no site of the model can be tempered (it draws z, x)" in refused(
        capsys, "sample", str(tmp_path / "run"), "--temperature", "0.9"
    )
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--particles", "3"]) == 0
    assert "codes" not in capsys.readouterr().out
    assert "codes" not in json.loads((tmp_path / "run" / "evaluation-test.json").read_text())
