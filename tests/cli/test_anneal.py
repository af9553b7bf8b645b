"""``pyro-vae ais``, ``bidirectional`` and ``gap``."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from pyro_vae.cli import main
from pyro_vae.evaluation import ais, bidirectional
from pyro_vae.runs import Run

FAST = ["--num_temperatures", "5", "--num_chains", "3", "--num_leapfrog", "2"]


def trained(folder, model, guide, init=None):
    config = {
        "data": {"name": "mnist5k", "binarization": "threshold", "limit": 20},
        "model": {"class_path": f"pyro_vae.models.{model}", "init_args": init or {}},
        "guide": {"class_path": f"pyro_vae.guides.{guide}"},
        "fit": {"epochs": 1, "batch_size": 10, "device": "cpu"},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(folder / "mine.yaml"), "--trust", "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), "VAE", "GaussianGuide", {"latent_dim": 2, "hidden_dims": [8]})


def told(capsys):
    return json.loads(capsys.readouterr().out)


def test_ais(run, capsys):
    capsys.readouterr()
    assert main(["ais", str(run), *FAST, "--limit", "4", "--seed", "3", "--json"]) == 0
    result = told(capsys)
    split = Run(run).data().test.subset(4)
    options = {"num_temperatures": 5, "num_chains": 3, "num_leapfrog": 2, "seed": 3, "device": "cpu"}
    assert result["log_likelihood"] == pytest.approx(ais(*Run(run).programs(), split, **options).mean)
    assert result["num_data"] == 4 and result["gradients_per_datum"] == 3 * (4 * 2 + 1)
    assert json.loads((run / "ais-test.json").read_text()) == result
    assert np.load(run / "ais-test.npz")["log_likelihood"].mean() == pytest.approx(result["log_likelihood"])


def test_bidirectional(run, capsys):
    assert main(["bidirectional", str(run), *FAST, "--num", "4"]) == 0
    printed = capsys.readouterr().out
    result = json.loads((run / "bidirectional.json").read_text())
    assert f"{result['gap']:.3f} +- {result['gap_standard_error']:.3f} nats" in printed
    assert "3 x 5 x 2, from the guide, sigmoid" in printed
    assert result["gap"] == pytest.approx(result["upper"] - result["lower"])
    each = np.load(run / "bidirectional.npz")
    assert (each["upper"] - each["lower"]).mean() == pytest.approx(result["gap"])


def test_gap(run, capsys):
    capsys.readouterr()
    arguments = [*FAST, "--limit", "4", "--particles", "[1,20]", "--num_steps", "3", "--split", "validation"]
    assert main(["gap", str(run), *arguments]) == 0
    printed = capsys.readouterr().out
    result = json.loads((run / "gap-validation.json").read_text())
    assert [row["bound"] for row in result["bounds"]] == ["ELBO", "ELBO, refined", "K = 1", "K = 20"]
    each = np.load(run / "gap-validation.npz")
    assert {row["bound"]: row["mean"] for row in result["bounds"]} == pytest.approx(
        {name: each[name].mean() for name in each.files if name != "annealed"}
    )
    assert "approximation gap of the ELBO" in printed and "amortization gap of the ELBO" in printed
    with Image.open(run / "figures" / "likelihood_gap.png") as image:
        image.verify()


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("ais", ["--num_temperatures", "0"], "num_temperatures must be a positive integer, got 0"),
        ("ais", ["--schedule", "cosine"], "schedule"),
        ("bidirectional", ["--num", "0"], "--num must be a positive integer, got 0"),
        ("gap", ["--particles", "[]"], "particles must name at least one"),
        ("gap", ["--num_temperture", "3"], "unknown option --num-temperture. Did you mean --num-temperatures"),
    ],
)
def test_bad_input(run, capsys, command, arguments, message):
    capsys.readouterr()
    assert main([command, str(run), *arguments]) in (1, 2)  # 2: not understood
    assert message in capsys.readouterr().err


def test_codes_are_refused(tmp_path, capsys):
    sizes = {"num_codes": 4, "code_dim": 2, "channels": 4, "block_channels": 4}
    run = trained(tmp_path, "VQVAE", "VQGuide", sizes)
    capsys.readouterr()
    assert main(["ais", str(run), *FAST, "--limit", "2"]) == 1
    assert "latent site 'codes' is discrete" in capsys.readouterr().err
    assert not (run / "ais-test.json").exists()


@pytest.mark.parametrize("command", ["ais", "gap", "evaluate"])
def test_one_datum_has_no_standard_error(run, capsys, command):
    """JSON knows no nan: null, in the file and on the screen."""
    capsys.readouterr()
    options = {"ais": FAST, "gap": [*FAST, "--num_steps", "2", "--particles", "[2]"], "evaluate": ["--particles", "2"]}
    assert main([command, str(run), *options[command], "--limit", "1", "--split", "train", "--json"]) == 0
    file = {"evaluate": "evaluation"}.get(command, command)
    for text in (capsys.readouterr().out, (run / f"{file}-train.json").read_text()):
        assert "NaN" not in text and 'rror": null' in text


def test_a_conditional_model_is_given_test_data_s_context(tmp_path, capsys):
    run = trained(tmp_path, "ConditionalVAE", "ConditionalGuide", {"latent_dim": 2, "hidden_dims": [8]})
    capsys.readouterr()
    assert main(["bidirectional", str(run), *FAST, "--num", "4", "--json"]) == 0
    batch = {"y": Run(run).data().test.batch(slice(0, 4))["y"]}
    options = {"num_temperatures": 5, "num_chains": 3, "num_leapfrog": 2, "batch": batch, "device": "cpu"}
    assert told(capsys)["gap"] == pytest.approx(bidirectional(*Run(run).programs(), 4, **options).gap[0])
    assert main(["bidirectional", str(run), *FAST, "--num", "400"]) == 1
    assert "the model is given y of test data, of which there are 20" in capsys.readouterr().err
