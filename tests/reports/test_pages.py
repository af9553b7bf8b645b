"""``pyro-vae report`` and ``compare``: what the pages say, and what is refused."""

import json
import logging
import math
import shlex
import shutil

import numpy as np
import pytest
import yaml
from pages import Page, check_alone

from pyro_vae.cli import main
from pyro_vae.recipes import read_recipe
from pyro_vae.reports import html
from pyro_vae.reports.compare import mixture
from pyro_vae.runs import Run

SMALL = {"name": "mnist5k", "binarization": "threshold", "limit": 30}
FEW = ["reconstructions", "reconstructions_by_level", "code_maps"]


def trained(folder, name, data=None, seed=0, **model):
    config = {
        "data": SMALL | (data or {}),
        "model": {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 3, "hidden_dims": [8]} | model},
        "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [8]}},
        "fit": {"epochs": 2, "batch_size": 10, "device": "cpu", "compile": "off"},
        "seed": seed,
    }
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(folder / "mine.yaml"), "--trust", "--out", str(folder / name)]) == 0
    return folder / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return trained(folder, "first-one"), trained(folder, "other", seed=1, hidden_dims=[16])


@pytest.fixture(scope="module")
def reported(runs):
    assert main(["report", str(runs[0]), "--particles", "20"]) == 0
    return runs[0]


@pytest.fixture
def few_figures(monkeypatch):
    monkeypatch.setattr("pyro_vae.reports.report.in_report", lambda: FEW)


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main([*map(str, arguments)]) in (1, 2)
    return capsys.readouterr().err


def test_a_report_says_what_was_measured(reported):
    said = json.loads((reported / "report.json").read_text())
    evaluation = json.loads((reported / "evaluation-test.json").read_text())
    assert said["evaluations"]["test"] == evaluation and evaluation["num_particles"] == 20
    page = Page((reported / "report.html").read_text())
    check_alone(page)
    assert page.titles == [
        *("What was measured", "Likelihood", "Latents", "Reconstructions", "Samples", "Traversals", "Training"),
        *("Configuration", "Commands", "Left out"),
    ]
    mean, error = evaluation["log_likelihood"], evaluation["standard_error"]
    assert page.row("log-likelihood (importance-weighted bound), nats") == [f"{mean:.2f} ± {error:.2f}"]
    assert page.row("ELBO, nats") == [f"{evaluation['elbo']:.2f} ± {evaluation['elbo_standard_error']:.2f}"]
    assert page.row("bits per dimension") == [f"{-mean / 784 / math.log(2):.4f}"]
    active = said["sites"]["z"]["num_active"]
    assert page.row("z") == ["latent", f"{evaluation['kl']['z']:.2f}", "100.0", str(active), "3"]
    model = (3 + 1) * 8 + (8 + 1) * 784
    assert said["parameters"]["model"] == model and f"model {model:,}, guide " in page.text
    assert page.row("measured") == ["30 data of test, K = 20 particles"]
    assert page.row("binarization") == ["threshold"] and "torch " in page.text
    assert len(page.images) == len(said["figures"]) and "traversals" in said["figures"]
    assert "Sound: the data are not sound." in page.text and "Codes: the model has no latent site" in page.text
    last = [json.loads(line) for line in (reported / "metrics.jsonl").read_text().splitlines()][-1]
    assert page.row(reported.name)[:4] == ["2", "2", "–", "6"]
    assert f"{last['validation/loss']:.2f}" in page.row(reported.name)


def test_the_second_report_measures_nothing(reported, few_figures, caplog):
    before = (reported / "evaluation-test.json").read_bytes()
    with caplog.at_level(logging.INFO):
        assert main(["report", str(reported), "--particles", "7"]) == 0
    assert (reported / "evaluation-test.json").read_bytes() == before
    assert "from evaluation-test.json (K = 20)" in caplog.text and "are not used; to measure anew" in caplog.text
    assert "no figure" not in caplog.text  # that is said in the page


def test_the_commands_repeat_the_run(reported, tmp_path, monkeypatch):
    train, evaluate, report = json.loads((reported / "report.json").read_text())["commands"]
    assert shlex.split(evaluate)[1:4] == ["evaluate", str(reported), "--split"] and "--seed 0" in evaluate
    assert shlex.split(report) == ["pyro-vae", "report", str(reported)]
    words = shlex.split(train)[1:]
    words[words.index("--out") + 1] = str(tmp_path / "again")
    assert main(words) == 0
    for program, other in zip(Run(reported).programs(), Run(tmp_path / "again").programs(), strict=True):
        theirs = other.state_dict()
        assert all(np.array_equal(value, theirs[name]) for name, value in program.state_dict().items())


def test_an_option_is_in_the_train_command(few_figures, tmp_path):
    words = ["--data.limit=20", "--data.binarization=threshold", "--model.latent_dim=2", "--model.hidden_dims=[4]"]
    words += ["--guide.hidden_dims=[4]", "--fit.epochs=1", "--fit.compile=off", "--fit.device=cpu"]
    assert main(["train", "vae", "--out", str(tmp_path / "run"), *words]) == 0
    assert main(["report", str(tmp_path / "run"), "--particles", "2"]) == 0
    command = json.loads((tmp_path / "run" / "report.json").read_text())["commands"][0]
    assert set(words) == set(shlex.split(command)[5:])


def test_a_prior_that_is_not_trained_to_its_end(reported, few_figures, tmp_path):
    run = shutil.copytree(reported, tmp_path / "run")
    (run / "priors" / "codes").mkdir(parents=True)
    config = {"version": "0.1.0", "recipe": "pixelcnn", "num_classes": 10, **read_recipe("pixelcnn")}
    config["prior"]["init_args"] = config["prior"].get("init_args", {}) | {"kernel": 3}
    config["seed"] = 4
    (run / "priors" / "codes" / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["report", str(run)]) == 0
    said = json.loads((run / "report.json").read_text())
    command = ["pyro-vae", "train-prior", f"{run}-again", "pixelcnn", "--site", "codes"]
    assert shlex.split(said["commands"][1]) == [*command, "--prior.kernel=3", "--seed=4"]
    assert said["warnings"] == ["prior of codes: training has not come to its end, so that it takes no part here."]
    assert Page((run / "report.html").read_text()).row("prior of codes")[-1] == "not trained"


def test_an_interrupted_training_is_reported_as_such(reported, few_figures, tmp_path):
    shutil.copytree(reported, tmp_path / "cut")
    (tmp_path / "cut" / "summary.json").unlink()
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "cut" / "metrics.jsonl").write_text(lines[0] + "\n" + lines[1][:30])
    assert main(["report", str(tmp_path / "cut")]) == 0
    page = Page((tmp_path / "cut" / "report.html").read_text())
    assert "not come to its end: 1 epochs of 2 are recorded" in page.text
    assert f"pyro-vae resume {tmp_path / 'cut'}" in page.text and "not at its end" in page.row("cut")
    (tmp_path / "cut" / "metrics.jsonl").unlink()
    shutil.rmtree(tmp_path / "cut" / "checkpoints")
    assert main(["report", str(tmp_path / "cut")]) == 0
    page = Page((tmp_path / "cut" / "report.html").read_text())
    assert "No training is recorded here" in page.text and "pyro-vae resume" not in page.text


def test_what_comes_from_files_is_escaped_and_other_measurements_are_shown(reported, few_figures, tmp_path):
    run = tmp_path / "<b>&run"
    shutil.copytree(reported, run)
    evaluation = json.loads((run / "evaluation-test.json").read_text())
    evaluation |= {"warnings": ["<script>alert(1)</script> is said"], "pareto_k_max": 0.83, "pareto_k_above": 0.25}
    evaluation["weights_digest"] = "of others"
    (run / "evaluation-test.json").write_text(json.dumps(evaluation))
    curve = [{"particles": 1, "bound": -103.25}, {"particles": 5000, "bound": -99.5}]
    other = {
        "log_likelihood": -98.765,
        "standard_error": 0.25,
        "num_chains": 16,
        "curve": curve,
        "parts": {"amortization": 1.5},
    }
    (run / "gap-test.json").write_text(json.dumps(other))
    assert main(["report", str(run)]) == 0
    text = (run / "report.html").read_text()
    page = Page(text)
    assert "<script" not in text and "<b>&run" not in text and "<script>alert(1)</script> is said" in page.text
    assert "it is of other weights than the run has now" in page.text
    assert page.row("largest Pareto k-hat of a datum's weights") == ["0.83"]
    assert page.row("data with k-hat above 0.7, %") == ["25.0"]
    assert page.row("log likelihood") == ["-98.77 ± 0.25"] and page.row("num chains") == ["16"]
    assert page.row("5,000") == ["-99.50"] and page.row("amortization") == ["1.50"]


def test_a_comparison_pairs_the_same_data(runs, reported, tmp_path, caplog):
    assert main(["evaluate", str(runs[1]), "--particles", "20"]) == 0
    with caplog.at_level(logging.INFO):
        assert main(["compare", *map(str, runs), "--out", str(tmp_path)]) == 0
    assert "measuring" not in caplog.text
    said = json.loads((tmp_path / "comparison.json").read_text())
    ours, theirs = (np.load(run / "evaluation-test.npz")["log_likelihood"] for run in reversed(runs))
    differences = ours - theirs
    found = said["runs"][1]["difference"]["log_likelihood"]
    assert found["mean"] == pytest.approx(differences.mean())
    assert found["standard_error"] == pytest.approx(differences.std(ddof=1) / np.sqrt(30))
    assert found["better"] == pytest.approx((differences > 0).mean())
    means = [run["log_likelihood"] for run in said["runs"]]
    assert found["mean"] == pytest.approx(means[1] - means[0]) and "difference" not in said["runs"][0]
    assert said["differences"] == {
        "model.hidden_dims": {"first-one": [8], "other": [16]},
        "seed": {"first-one": 0, "other": 1},
    }
    page = Page((tmp_path / "comparison.html").read_text())
    check_alone(page)
    assert page.titles[0] == "Differences from first-one"
    cells = page.row("other", table=1)
    mean, error = (float(number) for number in cells[0].split(" ± "))
    assert mean == pytest.approx(found["mean"], abs=5.1e-3) and error == pytest.approx(
        found["standard_error"], rel=0.05
    )
    assert float(cells[1]) == pytest.approx(found["mean"] / found["standard_error"], abs=0.06)
    assert page.tables[2][0] == ["", "first-one", "other"]
    assert page.row("bits per dimension") == [f"{run['bits_per_dim']:.4f}" for run in said["runs"]]
    assert page.row("model.hidden_dims") == ["[8]", "[16]"]
    both, together = np.log((np.exp(ours) + np.exp(theirs)) / 2), said["mixture"]
    assert together["log_likelihood"] == pytest.approx(both.mean())
    assert together["standard_error"] == pytest.approx(both.std(ddof=1) / np.sqrt(30))
    best = int(means[1] > means[0])
    assert together["best"] == said["runs"][best]["name"]
    assert together["difference"]["mean"] == pytest.approx(both.mean() - means[best])
    assert f"all as one mixture, equally weighted: log-likelihood {both.mean():.3f}, paired" in caplog.text
    assert "Mixture" in page.titles


def test_a_mixture_is_the_log_of_the_mean_probability():
    """Of far apart models it is the better one's, less log M; of equal ones theirs."""
    one = np.array([-1000.0, -3.0, -2.0])
    np.testing.assert_allclose(mixture([one, one, one]), one)
    np.testing.assert_allclose(mixture([one, one - 900.0]), one - np.log(2))
    np.testing.assert_allclose(mixture([np.log([0.2]), np.log([0.6])]), np.log([0.4]))


def test_against_turns_the_sign(runs, reported, tmp_path):
    for against in runs:
        words = ["--against", str(against), "--particles", "20", "--limit", "12", "--out", str(tmp_path / against.name)]
        assert main(["compare", *map(str, runs), *words]) == 0
    one, other = (json.loads((tmp_path / run.name / "comparison.json").read_text()) for run in runs)
    assert one["against"] == "first-one" and other["against"] == "other" and one["num_data"] == 12
    a, b = one["runs"][1]["difference"]["elbo"], other["runs"][0]["difference"]["elbo"]
    assert a["mean"] == pytest.approx(-b["mean"]) and a["standard_error"] == pytest.approx(b["standard_error"])
    whole = json.loads((runs[0] / "evaluation-test.json").read_text())
    assert whole["num_data"] == 30  # a comparison leaves the run directories as they are


def test_numbers_that_do_not_serve_are_measured_anew(runs, reported, tmp_path, caplog):
    copies = [shutil.copytree(run, tmp_path / run.name) for run in runs]
    for copy in copies:
        assert main(["evaluate", str(copy), "--particles", "3"]) == 0
    (copies[1] / "evaluation-test.npz").unlink()
    with caplog.at_level(logging.INFO):
        assert main(["compare", *map(str, copies), "--particles", "4", "--out", str(tmp_path)]) == 0
    assert "measuring all runs with K = 4" in caplog.text
    assert {run["num_particles"] for run in json.loads((tmp_path / "comparison.json").read_text())["runs"]} == {4}
    assert main(["evaluate", str(copies[1]), "--particles", "5"]) == 0
    assert main(["compare", *map(str, copies), "--out", str(tmp_path)]) == 0
    said = json.loads((tmp_path / "comparison.json").read_text())
    assert [run["num_particles"] for run in said["runs"]] == [3, 5]
    assert "The numbers of particles differ (first-one 3, other 5)" in said["warnings"][0]


def test_numbers_of_two_measurements_are_never_compared(runs, reported, tmp_path, capsys, caplog):
    """What a kill between two writes leaves: 1.4 nats between copies of one run."""
    copies = [shutil.copytree(runs[0], tmp_path / name) for name in ("a", "b")]
    for copy, seed in zip(copies, (1, 2), strict=True):
        assert main(["evaluate", str(copy), "--particles", "2", "--seed", str(seed)]) == 0
    shutil.copy(copies[1] / "evaluation-test.npz", copies[0])
    said = refused(capsys, "compare", *copies, "--out", tmp_path)
    assert "evaluation-test.json and evaluation-test.npz are of different measurements" in said
    assert f"Measure again: pyro-vae evaluate {copies[0]} --split test" in said
    assert not (tmp_path / "comparison.json").exists()
    (copies[0] / "evaluation-test.npz").unlink()
    assert "evaluation-test.npz, its other half, is missing" in refused(capsys, "compare", *copies)
    with np.load(copies[1] / "evaluation-test.npz") as arrays:
        np.savez(copies[0] / "evaluation-test.npz", **arrays)  # as older versions wrote them
    assert "are of different measurements" in refused(capsys, "compare", *copies)
    assert main(["compare", *map(str, copies), "--particles", "2", "--out", str(tmp_path)]) == 0  # anew: all is well
    assert main(["evaluate", str(copies[0]), "--particles", "2", "--seed", "1"]) == 0
    with caplog.at_level(logging.INFO):
        assert main(["compare", *map(str, copies), "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "comparison.json").read_text())["runs"][1]
    assert f"b: log-likelihood {found['log_likelihood']:.3f}, paired difference" in caplog.text


def test_a_report_says_where_numbers_do_not_belong_together(reported, few_figures, tmp_path):
    run = shutil.copytree(reported, tmp_path / "run")
    (run / "evaluation-test.npz").unlink()
    assert main(["report", str(run)]) == 0
    said = json.loads((run / "report.json").read_text())["warnings"]
    assert any("evaluation-test.npz, its other half, is missing. Measure again" in words for words in said)
    assert not any("other half" in words for words in json.loads((reported / "report.json").read_text())["warnings"])


def test_a_density_does_not_compare_with_a_probability(tmp_path, capsys):
    of = {name: {"class_path": f"pyro_vae.likelihoods.{name}"} for name in ("Gaussian", "Categorical")}
    pair = [trained(tmp_path, name, {"binarization": "none"}, likelihood=likelihood) for name, likelihood in of.items()]
    capsys.readouterr()
    assert main(["evaluate", str(pair[0]), "--particles", "2"]) == 0
    assert " of a density\n" in capsys.readouterr().out
    assert main(["evaluate", str(pair[1]), "--particles", "2"]) == 0
    assert " of a density\n" not in capsys.readouterr().out
    assert main(["compare", *map(str, pair), "--out", str(tmp_path)]) == 0
    said = json.loads((tmp_path / "comparison.json").read_text())
    assert any("densities of the data (Gaussian), others of probabilities" in words for words in said["warnings"])
    assert said["mixture"] is None
    assert Page((tmp_path / "comparison.html").read_text()).row("these bits are") == ["of a density", "–"]
    assert not any("densities" in words for words in compared_alike(tmp_path, pair[0]))


def compared_alike(folder, run):
    """Warnings where both runs are of one kind."""
    shutil.copytree(run, folder / "copy")
    assert main(["compare", str(run), str(folder / "copy"), "--out", str(folder)]) == 0
    return json.loads((folder / "comparison.json").read_text())["warnings"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"binarization": "static"}, "test data differ in binarization threshold and static"),
        ({"limit": 25}, "test data differ in limit 30 and 25, number 30 and 25"),
        ({"name": "square.npz", "binarization": "none", "limit": None}, "in shape, (1, 28, 28) and (1, 8, 8)"),
    ],
)
def test_data_that_differ_are_refused(runs, reported, tmp_path, capsys, data, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).random((40, 1, 8, 8)) < 0.5
    np.savez("square.npz", x=x.astype(np.float32))
    other = trained(tmp_path, "run", data=data)
    assert words in refused(capsys, "compare", reported, other)


def test_seeds_of_binarization_that_differ(tmp_path, capsys):
    pair = [trained(tmp_path, f"s{s}", {"binarization": "dynamic", "binarization_seed": s}) for s in (0, 1)]
    assert "differ in binarization_seed 0 and 1" in refused(capsys, "compare", *pair)
    said = refused(capsys, "compare", pair[0], pair[1], "--split", "train")
    assert "binarized anew at every pass" in said and "compare on validation or test" in said


def test_refusals(runs, reported, tmp_path, capsys):
    assert "is not a run directory" in refused(capsys, "report", tmp_path)
    assert "is not a run directory" in refused(capsys, "compare", reported, tmp_path)
    assert "needs at least two run directories, got 1" in refused(capsys, "compare", reported)
    assert "is named twice" in refused(capsys, "compare", reported, reported / "." / ".." / reported.name)
    assert "unknown run to compare against" in refused(capsys, "compare", *runs, "--against", tmp_path)
    assert "split" in refused(capsys, "report", reported, "--split", "tset")
    np.savez(tmp_path / "mine.npz", x_train=np.zeros((9, 1, 8, 8), np.float32))
    only = {"name": str(tmp_path / "mine.npz"), "binarization": "none", "limit": None}
    run = trained(tmp_path, "only", only)
    assert "have no test part; they have: train" in refused(capsys, "report", run)
    copy = shutil.copytree(reported, tmp_path / "copy")
    (copy / "evaluation-test.json").write_text("{")
    assert "evaluation-test.json cannot be read" in refused(capsys, "report", copy)
    (copy / "evaluation-test.json").write_text("{}")
    assert "has no 'log_likelihood': measure again" in refused(capsys, "report", copy)


def test_texts_in_a_page_are_shown_and_not_obeyed():
    page = html.texts("samples", {"<i>": ["\x1b]0;mine\x07<script>", "caf\u00e9 \u732b"]}, ["$a$", "<b>"], "<u>")
    assert "\x1b" not in page and "\x07" not in page and "caf\u00e9 \u732b" in page
    assert "\\x1b]0;mine\\x07&lt;script&gt;" in page
    assert not any(f"<{tag}>" in page for tag in ("i", "b", "u", "script"))
