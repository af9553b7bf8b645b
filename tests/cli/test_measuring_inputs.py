"""What the measuring commands are given and cannot use: one sentence, exit status 2, and no file."""

import json
import os

import pytest
import torch
import yaml

from pyro_vae.cli import main
from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, bidirectional, code_statistics, elbo, latent_statistics, log_likelihood
from pyro_vae.evaluation.encoding import encode
from pyro_vae.runs import Run
from pyro_vae.runtime import as_device, check_seed

ON_DATA = ["evaluate", "ais", "gap", "report"]
COMMANDS = [*ON_DATA, "bidirectional", "compare"]
FAST = {
    "evaluate": ["--particles", "2"],
    "ais": ["--num_temperatures", "2", "--num_chains", "2", "--num_leapfrog", "1"],
    "gap": ["--num_temperatures", "2", "--num_chains", "2", "--num_leapfrog", "1", "--particles", "[2]"],
}
FAST["bidirectional"] = [*FAST["ais"], "--num", "2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    config = {
        "data": {"name": "mnist5k", "binarization": "threshold", "limit": 12},
        "model": {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [4]}},
        "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [4]}},
        "fit": {"epochs": 1, "batch_size": 6, "device": "cpu", "compile": "off"},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    for name in ("a", "b"):
        assert main(["train", str(folder / "mine.yaml"), "--out", str(folder / name)]) == 0
    return folder / "a", folder / "b"


def refused(capsys, runs, command, *options):
    """What a command says that does nothing, in one sentence."""
    capsys.readouterr()
    before = sorted(file for run in runs for file in run.rglob("*"))
    where = [*map(str, runs), "--out", str(runs[0].parent)] if command == "compare" else [str(runs[0])]
    assert main([command, *where, *options]) in (1, 2)  # 2: not understood
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1, said.err
    assert sorted(file for run in runs for file in run.rglob("*")) == before
    return said.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "tpux"], "unknown device 'tpux'"),
        (["--device", "cuda:x"], "unknown device 'cuda:x'"),
        (["--device", "meta"], "device 'meta' cannot be computed on here"),
        (["--device", ""], "unknown device ''"),
        (["--seed", "-1"], "seed must be an integer from 0 to 2^64 - 1, got -1"),
        (["--seed", str(2**64)], "seed must be an integer from 0 to 2^64 - 1, got 18446744073709551616"),
        (["--seed", "1.5"], "seed"),
        (["--memory_mib", "0"], "memory_mib must be a positive integer, got 0"),
        (["--memory_mib", "-64"], "memory_mib must be a positive integer, got -64"),
        (["--memory_mib", "much"], "--memory-mib takes an integer; got 'much'"),
    ],
)
def test_devices_seeds_and_budgets(runs, capsys, command, options, words):
    assert words in refused(capsys, runs, command, *options)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(runs, capsys, command):
    for device in ("cuda", "cuda:1"):
        said = refused(capsys, runs, command, "--device", device)
        assert f"device '{device}': torch sees no GPU here; 'cpu' or 'auto' will do" in said


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        *((c, ["--particles", "0"], "particles must be a positive integer, got 0") for c in ("evaluate", "report")),
        ("compare", ["--particles", "0"], "particles must be a positive integer, got 0"),
        ("compare", ["--limit", "0"], "limit must be a positive integer, got 0"),
        *((c, ["--limit", "0"], "limit must be a positive integer, got 0") for c in ON_DATA),
        *((c, ["--limit", "-3"], "limit must be a positive integer, got -3") for c in ON_DATA),
        ("gap", ["--particles", "[0]"], "particles must be a positive integer, got 0"),
        ("ais", ["--num_chains", "0"], "num_chains must be a positive integer, got 0"),
        ("evaluate", ["--particles", "many"], "particles"),
    ],
)
def test_numbers_that_are_not_positive(runs, capsys, command, options, words):
    assert words in refused(capsys, runs, command, *options)


@pytest.mark.parametrize("command", ["evaluate", "ais", "bidirectional", "gap"])
def test_no_permission_to_write_loses_no_number(runs, capsys, monkeypatch, command):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    capsys.readouterr()
    monkeypatch.setattr(os, "replace", forbidden)
    options = [*FAST[command], *(["--num_steps", "2"] if command == "gap" else [])]
    assert main([command, str(runs[0]), *options, "--device", "cpu", "--json"]) in (1, 2)
    said = capsys.readouterr()
    assert json.loads(said.out)["measurement_id"]
    (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert "cannot write" in line and "Permission denied" in line and "Traceback" not in said.err


@pytest.mark.parametrize("command", ["report", "compare"])
def test_pages_that_cannot_be_written_say_their_numbers(runs, capsys, monkeypatch, caplog, command):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", forbidden)
    dirs = runs if command == "compare" else runs[:1]
    with caplog.at_level("INFO"):
        assert main([command, *map(str, dirs), "--particles", "2", "--device", "cpu"]) == 1
    assert "Permission denied" in capsys.readouterr().err and "log-likelihood" in caplog.text


def test_a_budget_too_small_for_a_particle_is_said(runs, capsys):
    model, guide = Run(runs[0]).programs()
    test = Run(runs[0]).data().test
    for estimate in (log_likelihood, elbo, latent_statistics, ais):
        with pytest.raises(InputError, match=r"memory_budget 100 bytes is too small: .*takes? \d+ bytes"):
            estimate(model, guide, test, memory_budget=100)


@pytest.mark.parametrize("bad", [-1, 2**64, 1.0, True, "0"])
def test_seeds_in_python(runs, bad):
    model, guide = Run(runs[0]).programs()
    test = Run(runs[0]).data().test
    for estimate in (log_likelihood, elbo, latent_statistics, code_statistics, ais, encode):
        with pytest.raises(InputError, match="seed must be an integer from 0 to"):
            estimate(model, guide, test, seed=bad)
    with pytest.raises(InputError, match="seed must be an integer from 0 to"):
        bidirectional(model, guide, 2, seed=bad)


def test_the_largest_seed(runs):
    model, guide = Run(runs[0]).programs()
    few = {"num_chains": 2, "num_temperatures": 2, "num_leapfrog": 1}
    assert bidirectional(model, guide, 2, seed=2**64 - 1, **few).lower.isfinite().all()
    assert check_seed(2**64 - 1) == 2**64 - 1 and check_seed(0) == 0


def test_devices():
    assert as_device("cpu") == as_device(torch.device("cpu")) == torch.device("cpu")
    assert as_device("auto").type in ("cpu", "cuda")
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        as_device("gpu")
