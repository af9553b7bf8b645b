"""Plain functions and classes with the methods model and guide, as the programs of a configuration."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

from pyro_vae.cli import main
from pyro_vae.errors import InputError
from pyro_vae.evaluation.generate import sample
from pyro_vae.runs import Run

FUNCTIONS = """
import pyro, pyro.distributions as dist, torch
from dataclasses import dataclass
from torch import nn

@dataclass
class Sizes:
    latent: int = 2

encoder, decoder = nn.Linear(5, 2 * Sizes().latent), nn.Linear(Sizes().latent, 5)
words = "not a function"

def model(x=None, num_samples=1):
    spread = pyro.param("spread", torch.ones(2), constraint=dist.constraints.positive)
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), spread).to_event(1))
        return pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

def guide(x):
    loc, raw = encoder(x).chunk(2, -1)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw) + 1e-4).to_event(1))

class Pair(nn.Module):
    def __init__(self, data_shape, latent_dim=2):
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder, self.decoder = nn.Linear(*data_shape, 2 * latent_dim), nn.Linear(latent_dim, *data_shape)

    def model(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw) + 1e-4).to_event(1))

class Half(nn.Module):
    def model(self, x=None):
        pass
"""
CONFIGS = {
    "functions": {"model": "NAME.model", "guide": "NAME.guide"},
    "with a guide of the package": {
        "model": "NAME.model",
        "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [4]}},
    },
    "methods": {"pair": {"class_path": "NAME.Pair", "init_args": {"latent_dim": 3}}},
}
FIT = {"epochs": 2, "batch_size": 10, "device": "cpu", "learning_rate": 0.01}


@pytest.fixture
def written(tmp_path, monkeypatch, request):
    """A function that writes a configuration beside a module with a name of its own, and its path."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"functions_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    x = (np.random.default_rng(0).random((40, 5)) < 0.3).astype(np.float32)
    np.save(tmp_path / "x.npy", x)

    def write(config):
        config = {"data": {"name": str(tmp_path / "x.npy")}, "fit": FIT, **config}
        (tmp_path / "mine.yaml").write_text(json.dumps(config).replace("NAME", name))
        return str(tmp_path / "mine.yaml")

    yield write
    sys.modules.pop(name, None)


def evaluated(run):
    assert main(["evaluate", str(run), "--trust", "--particles", "20", "--json"]) == 0
    return json.loads((run / "evaluation-test.json").read_text())


@pytest.mark.parametrize("case", CONFIGS)
def test_they_train_are_saved_resumed_and_evaluated(case, written, tmp_path, capsys):
    file, run = written(CONFIGS[case]), tmp_path / "run"
    assert main(["train", file, "--trust", "--out", str(run)]) == 0
    model, _ = Run(run, trust=True).programs()
    first = evaluated(run)
    assert first["log_likelihood"] == pytest.approx(evaluated(run)["log_likelihood"], abs=0)
    if case != "methods":
        sampled = sample(model, 3)
        assert sampled["z"].shape == (3, 2) and model.param("spread").shape == (2,)
    assert main(["sample", str(run), "--trust", "--num", "3"]) == 0
    assert main(["reconstruct", str(run), "--trust", "--num", "3"]) == 0
    # without trust nothing of it is imported
    capsys.readouterr()
    before = sys.modules.copy()
    for key in [key for key in sys.modules if key.startswith("functions_")]:
        del sys.modules[key]
    assert main(["evaluate", str(run)]) == 1
    assert "names code outside pyro_vae" in capsys.readouterr().err
    assert not [key for key in sys.modules if key.startswith("functions_")]
    sys.modules.update(before)
    # the same again from the same seed, another from another
    assert main(["train", file, "--trust", "--out", str(tmp_path / "again")]) == 0
    assert evaluated(tmp_path / "again")["log_likelihood"] == first["log_likelihood"]
    assert main(["train", file, "--trust", "--out", str(tmp_path / "other"), "--seed", "1"]) == 0
    assert evaluated(tmp_path / "other")["log_likelihood"] != first["log_likelihood"]
    assert evaluated(run)["log_likelihood"] == first["log_likelihood"]


def test_an_interrupted_run_of_functions_goes_on_to_the_same_end(written, tmp_path, monkeypatch):
    from pyro_vae.training.loop import Trainer

    file = written(CONFIGS["functions"])
    assert main(["train", file, "--trust", "--out", str(tmp_path / "whole")]) == 0
    one_step = Trainer._one_step

    def interrupted(self, epoch):
        if self.at.step == 4:
            raise KeyboardInterrupt
        return one_step(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one_step", interrupted)
        with pytest.raises(SystemExit):
            main(["train", file, "--trust", "--out", str(tmp_path / "run"), "--fit.checkpoint_every", "0"])
    assert main(["resume", str(tmp_path / "run"), "--trust"]) == 0
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert files[0] == files[1]


def test_two_runs_in_one_process_have_weights_of_their_own(written, tmp_path):
    file = written(CONFIGS["functions"])
    for seed in "01":
        assert main(["train", file, "--trust", "--out", str(tmp_path / seed), "--seed", seed]) == 0
    runs = [Run(tmp_path / seed, trust=True).programs() for seed in "01"]
    x = torch.zeros(1, 5)
    for program, folder in zip(runs, "01", strict=True):
        weight = dict(program[1].named_parameters())["modules_used.encoder.weight"]
        again = dict(Run(tmp_path / folder, trust=True).programs()[1].named_parameters())["modules_used.encoder.weight"]
        assert torch.equal(weight, again)
    drawn = [program[1].modules_used["encoder"](x) for program in runs]
    assert not torch.equal(*drawn)


def test_runs_that_would_share_an_imported_module_are_refused(written, tmp_path, capsys):
    file = written({"model": "users_shared.model", "guide": "users_shared.guide"})
    (tmp_path / "users_layers.py").write_text(
        "from torch import nn\nencoder, decoder = nn.Linear(5, 4), nn.Linear(2, 5)\n"
    )
    text = FUNCTIONS.replace("encoder, decoder = nn.Linear(5, 2 * Sizes().latent), nn.Linear(Sizes().latent, 5)", "")
    (tmp_path / "users_shared.py").write_text("from users_layers import decoder, encoder\n" + text)
    assert main(["train", file, "--trust", "--out", str(tmp_path / "0")]) == 0
    Run(tmp_path / "0", trust=True).programs()
    assert main(["train", file, "--trust", "--out", str(tmp_path / "1")]) == 1
    assert "works with the same one in this process" in " ".join(capsys.readouterr().err.split())
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    with pytest.raises(InputError, match=r"works with the same one in this process"):
        Run(tmp_path / "1", trust=True).programs()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"pair": "NAME.Half"}, "pair: Half has no method guide"),
        ({"pair": "NAME.Pair", "guide": "NAME.guide"}, "leave guide out, or say model and guide apart"),
        ({"model": "NAME.words", "guide": "NAME.guide"}, "NAME.words"),
        ({"model": "NAME.nothing", "guide": "NAME.guide"}, "NAME.nothing"),
        ({"model": "pyro_vae.files.write_json", "guide": "NAME.guide"}, "pyro_vae.files.write_json"),
    ],
)
def test_what_is_no_pair_is_refused(config, told, written, tmp_path, capsys):
    file = written(config)
    name = next(path.stem for path in tmp_path.glob("functions_*.py"))
    assert main(["train", file, "--trust", "--out", str(tmp_path / "run")]) == 1
    assert told.replace("NAME", name) in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()
