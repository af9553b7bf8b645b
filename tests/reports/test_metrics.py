"""A metric is a function in one place: evaluate, report and compare show it without knowing it."""

import json
import logging
import math

import numpy as np
import pytest
import torch
import yaml
from pages import Page, check_alone

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.data import Data, Split
from pyro_vae.errors import NotApplicable
from pyro_vae.evaluation import Scores, metric
from pyro_vae.evaluation import results as registry
from pyro_vae.runs import Run
from pyro_vae.runs.measurements import measure

LABEL = "squared error of a reconstruction <script>"


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setattr(registry, "_metrics", registry.metrics())  # those of the package imported first
    monkeypatch.setattr("pyro_vae.reports.report.in_report", lambda: [])


def squared_error(model, guide, split, *, memory_budget, seed, device):
    assert memory_budget > 0 and split.device == device and not model.training and not torch.is_grad_enabled()
    mean = pyro_vae.reconstruct(model, guide, split, seed=seed)
    return Scores((mean - split.batch(slice(None))["x"].cpu()).square().flatten(1).sum(1), LABEL, unit="")


def infinite_at_first(split):
    return Scores(torch.tensor([math.inf] + [1.0] * (len(split) - 1)), "how far")


def of_sound(split):
    raise NotApplicable("the data are not sound")


def broken(split):
    raise RuntimeError("of its own")


def of_tensors(split):
    found = Scores(torch.zeros(len(split)), "zeros")
    found.unit = torch.zeros(1)  # no plain value
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics")
    for seed in (0, 1):
        config = {
            "data": {"name": "mnist5k", "binarization": "threshold", "limit": 20},
            "model": {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [8]}},
            "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [8]}},
            "fit": {"epochs": 1, "batch_size": 10, "device": "cpu", "compile": "off"},
            "seed": seed,
        }
        (folder / "mine.yaml").write_text(yaml.safe_dump(config))
        assert main(["train", str(folder / "mine.yaml"), "--trust", "--out", str(folder / f"run{seed}")]) == 0
    return [folder / "run0", folder / "run1"]


def evaluated(run, *options):
    assert main(["evaluate", str(run), "--particles", "5", "--device", "cpu", *options]) == 0
    return json.loads((run / "evaluation-test.json").read_text()), dict(np.load(run / "evaluation-test.npz"))


def test_a_metric_is_shown_by_evaluate_report_and_compare(runs, tmp_path, capsys):
    metric(squared_error)
    found = [evaluated(run) for run in runs]
    printed = capsys.readouterr().out
    for run, (result, arrays) in zip(runs, found, strict=True):
        model, guide = Run(run).programs()
        test = Run(run).data().test
        with torch.no_grad():
            expected = squared_error(model.eval(), guide, test, memory_budget=1, seed=0, device=test.device)
        np.testing.assert_array_equal(arrays["squared_error.per_datum"], expected.per_datum.double())
        assert result["metrics"]["squared_error"]["rows"] == expected.rows
        assert result["metrics"]["squared_error"]["summary"]["mean"] == pytest.approx(expected.mean)
        assert f"  {LABEL}  {expected.rows[LABEL]}\n" in printed
    evaluated(runs[0], "--json")
    assert json.loads(capsys.readouterr().out)["metrics"] == found[0][0]["metrics"]

    assert main(["report", str(runs[0])]) == 0
    text = (runs[0] / "report.html").read_text()
    check_alone(Page(text))
    shown = found[0][0]["metrics"]["squared_error"]["rows"][LABEL].replace("+-", "±")
    assert Page(text).row(LABEL) == [shown] and "<script" not in text

    assert main(["compare", *map(str, runs), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "comparison.html").read_text()
    page = Page(text)
    check_alone(page)
    other = found[1][0]["metrics"]["squared_error"]["rows"][LABEL].replace("+-", "±")
    assert "<script" not in text and page.row(LABEL) == [shown, other] and shown != other
    arrays = [each["squared_error.per_datum"] for _, each in found]
    differences = arrays[1] - arrays[0]
    paired = json.loads((tmp_path / "comparison.json").read_text())["runs"][1]["difference"]["squared_error.per_datum"]
    assert paired["mean"] == pytest.approx(differences.mean())
    assert paired["standard_error"] == pytest.approx(differences.std(ddof=1) / np.sqrt(20))
    assert page.tables[1][0][5:7] == ["squared_error.per_datum", "in st. errors"]
    cells = page.row("run1", table=1)
    assert float(cells[4].split(" ± ")[0]) == pytest.approx(paired["mean"], abs=5.1e-3)
    assert float(cells[5]) == pytest.approx(paired["mean"] / paired["standard_error"], abs=0.06)


def test_a_run_that_was_measured_before_the_metric_was_has_a_dash(runs, tmp_path):
    evaluated(runs[1])
    metric(squared_error)
    evaluated(runs[0])
    assert main(["compare", *map(str, runs), "--out", str(tmp_path)]) == 0
    page = Page((tmp_path / "comparison.html").read_text())
    assert page.row(LABEL)[1] == "–" and "±" in page.row(LABEL)[0]
    assert set(json.loads((tmp_path / "comparison.json").read_text())["runs"][1]["difference"]) == {
        *("log_likelihood", "elbo"),
    }


def test_the_package_s_own_metrics_that_do_not_apply_are_told_only_to_who_asks(runs, caplog):
    with caplog.at_level(logging.INFO):
        evaluated(runs[0])
    assert "no metric" not in caplog.text
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "pyro_vae"):
        measure(*Run(runs[0]).programs(), Run(runs[0]).data(), particles=5)
    assert "no metric 'accuracy'" in caplog.text and "no metric 'clusters'" in caplog.text


OWN = ("posterior_against_prior", "information_in_latents")  # that apply to these runs


def test_without_further_metrics_there_is_nothing_of_them(runs, tmp_path):
    for name in OWN:
        registry._metrics.pop(name)
    assert "metrics" not in evaluated(runs[0])[0]
    evaluated(runs[1])
    assert main(["compare", *map(str, runs), "--out", str(tmp_path)]) == 0
    assert len(Page((tmp_path / "comparison.html").read_text()).tables[1][0]) == 6


@pytest.mark.parametrize("function", [broken, of_tensors])
def test_a_metric_that_does_not_apply_says_so_in_the_log_and_one_that_fails_takes_no_other_with_it(
    runs, caplog, function
):
    for each in (of_sound, function, squared_error):
        metric(each)
    with caplog.at_level(logging.INFO):
        result, arrays = evaluated(runs[0])
    assert "no metric 'of_sound': the data are not sound" in caplog.text
    assert set(result["metrics"]) == {"squared_error", *OWN} and not any(
        "sound" in words for words in result["warnings"]
    )
    (said,) = [words for words in result["warnings"] if words.startswith(f"the metric {function.__name__} failed: ")]
    assert f"no metric '{function.__name__}': " in caplog.text and "Error: " in said
    assert {name for name in arrays if "." in name} == {"squared_error.per_datum"}


def test_a_label_of_another_number_takes_no_row_from_it(runs, capsys):

    @metric
    def mine(split):
        return Scores(torch.ones(len(split)), "ELBO")

    result, _ = evaluated(runs[0])
    printed = capsys.readouterr().out
    assert "  ELBO (mine)" in printed and f"{result['elbo']:.2f} +- {result['elbo_standard_error']:.2f} nats" in printed


def test_numbers_that_are_none_are_named_and_compared_all_the_same(runs, tmp_path):
    metric(infinite_at_first)
    results = [evaluated(run)[0] for run in runs]
    assert results[0]["metrics"]["infinite_at_first"]["summary"]["mean"] is None
    assert any("the how far of 1 of 20 data is not finite (datum 0: inf)" in words for words in results[0]["warnings"])
    assert main(["compare", *map(str, runs), "--out", str(tmp_path)]) == 0
    page = Page((tmp_path / "comparison.html").read_text())
    assert page.row("run1", table=1)[4:6] == ["–", "–"] and len(page.tables[1][0]) == 8


def test_a_metric_sees_the_data_that_the_bounds_were_measured_on_and_leaves_the_random_state():
    seen = []

    @metric
    def looked_at(split, seed):
        seen.append(split.batch(slice(None))["x"])
        return Scores(torch.rand(len(split)), "noise", unit="")

    model = pyro_vae.models.VAE((4,), latent_dim=2, hidden_dims=[3])
    guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=[3])
    grey = Split({"x": torch.full((6, 4), 0.5)}, binarization="dynamic")
    state = torch.random.get_rng_state()
    first, again = (measure(model, guide, Data(grey), "train", particles=2, device="cpu") for _ in range(2))
    assert torch.equal(seen[0], seen[1]) and set(seen[0].flatten().tolist()) == {0.0, 1.0}
    assert np.array_equal(first.per_datum["looked_at.per_datum"], again.per_datum["looked_at.per_datum"])
    assert torch.equal(torch.random.get_rng_state(), state)
