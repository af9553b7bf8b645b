"""Reports of programs that a user wrote: by class path, and from Python."""

import json
from dataclasses import replace

import code_pairs
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pages import Page, check_alone
from torch import nn

from pyro_vae import fit
from pyro_vae.cli import main
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.plots import registry
from pyro_vae.reports import write_comparison, write_report
from pyro_vae.runs import Run


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    return code_pairs.labelled_run(tmp_path_factory.mktemp("codes"))


def test_codes_by_class_path(coded, capsys):
    assert main(["report", str(coded)]) == 1
    assert "--trust" in capsys.readouterr().err
    assert main(["report", str(coded), "--trust", "--particles", "3"]) == 0
    said = json.loads((coded / "report.json").read_text())
    page = Page((coded / "report.html").read_text())
    check_alone(page)
    evaluation = json.loads((coded / "evaluation-test.json").read_text())
    usage, bits = evaluation["codes"]["codes"], evaluation["kl"]["codes"] / (16 * np.log(2))
    assert page.row("codes", table=3)[:3] == ["4 x 4", "8", str(usage["num_used"])]
    assert page.row("codes", table=2)[:2] == ["codes", f"{evaluation['kl']['codes']:.2f}"]
    assert page.row("codes", table=2)[-1] == f"{bits:.2f}"
    assert page.row("z", table=2)[:2] == ["function of the others", "0.00"]
    assert page.row("given") == ["y"] and "nats: log p(x | y), test, K = 1" in page.text
    assert "Codes" in page.titles and "Traversals" not in page.titles
    assert "Traversals: no latent site has real values of its own." in page.text
    assert "codebook_usage" in said["figures"] and "traversals" not in said["figures"]
    assert all("--trust" in command for command in said["commands"][1:]) and said["warnings"] == []


@pytest.fixture(scope="module")
def from_python(tmp_path_factory):
    folder = tmp_path_factory.mktemp("python")
    decoder, encoder = nn.Linear(2, 6), nn.Linear(6, 2)

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))

    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    data = Data(Split({"x": x[:40]}, name="mine"), test=Split({"x": x[40:]}, name="mine test"), name="mine")
    options = {"epochs": 2, "batch_size": 10, "device": "cpu", "compile": "off", "progress": False}
    result = fit(model, guide, data, out=folder / "run", **options)
    return folder / "run", result, data


def test_plain_functions_from_python(from_python, monkeypatch):
    monkeypatch.setattr(
        "pyro_vae.reports.report.in_report", lambda: ["reconstructions", "traversals"]
    )  # curves take long
    run, result, data = from_python
    page = Page(write_report(run, result.model, result.guide, data, particles=50).read_text())
    check_alone(page)
    said = json.loads((run / "report.json").read_text())
    assert page.row("z", table=2)[0] == "latent"
    assert said["commands"] == [] and "Commands" not in page.titles and "Trained from Python" in page.text
    assert said["parameters"] == {"model": 18, "guide": 14, "all": 32}
    assert page.row("measured") == ["20 data of test, K = 50 particles"] and "traversals" in said["figures"]


def test_from_python_all_three_are_needed(from_python):
    run, result, data = from_python
    with pytest.raises(InputError, match="needs model, guide and data, all three"):
        write_report(run, result.model, result.guide)
    with pytest.raises(InputError, match=r"unknown part of the data 'tset'.*Did you mean 'test'"):
        write_report(run, result.model, result.guide, data, split="tset")
    with pytest.raises(InputError, match="the data mine have no validation part; they have: train, test"):
        write_report(run, result.model, result.guide, data, split="validation")


def test_runs_are_as_good_as_their_directories(coded, tmp_path):
    other = tmp_path / "other"
    assert main(["train", str(coded.parent / "mine.yaml"), "--trust", "--out", str(other)]) == 0
    page = write_comparison([Run(coded, trust=True), Run(other, trust=True)], tmp_path, limit=5)
    said = json.loads((tmp_path / "comparison.json").read_text())
    assert page == tmp_path / "comparison.html" and "All runs are configured alike." in Page(page.read_text()).text
    assert said["runs"][1]["difference"]["log_likelihood"] == {"mean": 0.0, "standard_error": 0.0, "better": 0.0}
    assert "--trust" in said["command"] and "--limit 5" in said["command"]


def test_a_program_with_names_of_its_own_and_a_section_that_fails(tmp_path, monkeypatch, caplog):
    decoder, encoder = nn.Linear(2, 16), nn.Linear(16, 2)

    def model(xs):
        with pyro.plate("data", xs.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(decoder(z), 0.5).to_event(1), obs=xs.flatten(1))

    def guide(images):
        with pyro.plate("data", len(images)):
            pyro.sample("z", dist.Normal(encoder(images.flatten(1)), 0.5).to_event(1))

    split = Split({"x": torch.rand(40, 4, 4, generator=torch.Generator().manual_seed(0))}, name="toy test")
    data = Data(split, test=split)
    result = fit(model, guide, data, epochs=1, out=tmp_path, progress=False, device="cpu")
    page = write_report(tmp_path, result.model, result.guide, data, particles=5)
    said = json.loads((tmp_path / "report.json").read_text())
    assert {"reconstructions", "prior_samples", "traversals", "interpolations", "manifold"} <= set(said["figures"])
    assert not any("failed" in words for words in said["warnings"])

    def fails(*args, **kwargs):
        raise KeyError("of the model's own")

    monkeypatch.setattr(registry, "latent_statistics", fails)
    broken = replace(registry.figures()["reconstructions"], function=fails)
    monkeypatch.setitem(registry._entries, "reconstructions", broken)
    page = write_report(tmp_path, result.model, result.guide, data)
    check_alone(Page(page.read_text()))
    said = json.loads((tmp_path / "report.json").read_text())
    why = 'KeyError: "of the model\'s own"'
    failed = [f"Latents failed: {why}", f"Figure reconstructions failed: {why}"]
    assert [words for words in said["warnings"] if "failed" in words] == failed
    assert said["left_out"]["Latents"] == said["left_out"]["Reconstructions"] == why
    assert "prior_samples" in said["figures"] and "reconstructions" not in said["figures"]
    assert f"no figure 'reconstructions': {why}" in caplog.text
