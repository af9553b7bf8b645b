"""Sweeps of small trainings: they are what ``train`` makes, go on after any end, and are ranked by validation."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from dying import Killed, die_at
from safetensors.torch import load_file

from pyro_vae.cli import main
from pyro_vae.sweeps import read_plan, run_sweep, sweep_results
from pyro_vae.sweeps import results as results_module
from pyro_vae.sweeps import sweep as sweep_module

CONFIG = {
    "data": {"name": "mnist5k", "binarization": "threshold", "limit": 40},
    "model": {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [4]}},
    "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [4]}},
    "fit": {"epochs": 2, "batch_size": 10, "device": "cpu", "compile": "off", "checkpoint_every": 0.0},
}
GRID = ["--grid", "fit.learning_rate=1e-3,1e-2"]


class Here:
    """Commands that run in this process, one after another, when they are started."""

    def __init__(self, commands, run, log):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        self.code = next((code for code in map(main, commands) if code), 0)

    def status(self):
        return self.code

    def stop(self):
        pass

    kill = stop

    def error(self):
        return "it failed here"


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(sweep_module, "PAUSE", 0.0)
    monkeypatch.setattr("pyro_vae.runs.measurements.metrics", dict)  # which take long
    monkeypatch.setattr("pyro_vae.cli.sweep.run_sweep", functools.partial(run_sweep, start=Here))


def recipe(folder, **fit):
    file = folder / "my.yaml"
    file.write_text(yaml.safe_dump(CONFIG | {"fit": CONFIG["fit"] | fit}))
    return str(file)


def swept(folder, *options):
    return ["sweep", str(folder / "my.yaml"), "--out", str(folder / "sweep"), "--particles", "5", *options]


def left(run):
    """What a training leaves, without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]
    return {name: value.tolist() for name, value in load_file(run / "model.safetensors").items()}, lines


@pytest.mark.slow
def test_a_sweep_is_what_train_makes_and_stays_as_it_is(here, tmp_path, capsys):
    file = recipe(tmp_path)
    assert main(swept(tmp_path, *GRID, "--seeds", "2", "--seed", "3", "--fit.batch_size", "20")) == 0
    sweep = tmp_path / "sweep"
    names = [f"learning_rate={rate},seed={seed}" for rate in ("1e-3", "1e-2") for seed in (3, 4)]
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == sorted([*names, "logs"])
    train = ["train", file, "--out", str(tmp_path / "alone"), "--seed", "4", "--fit.learning_rate", "1e-2"]
    assert main([*train, "--fit.batch_size", "20"]) == 0
    assert left(sweep / names[3]) == left(tmp_path / "alone")
    assert main(["evaluate", str(tmp_path / "alone"), "--particles", "5"]) == 0
    numbers = [np.load(run / "evaluation-test.npz")["elbo"] for run in (sweep / names[3], tmp_path / "alone")]
    assert np.array_equal(*numbers)

    said = json.loads((sweep / "results.json").read_text())
    assert [len(setting["seeds"]) for setting in said["settings"]] == [2, 2]
    means = [setting["measured"]["validation"]["mean"] for setting in said["settings"]]
    assert means == sorted(means, reverse=True) and "learning_rate=1e-2" in capsys.readouterr().out
    assert (sweep / "settings.png").read_bytes()[1:4] == b"PNG"
    assert (sweep / "settings.csv").read_text().startswith("setting,fit.learning_rate,seeds,missing,validation_mean")

    before = {file: file.stat().st_mtime_ns for name in names for file in (sweep / name).rglob("*") if file.is_file()}
    more = ["--seeds", "2", "--seed", "3", "--fit.batch_size", "20"]
    assert main(swept(tmp_path, "--grid", "fit.learning_rate=1e-3,1e-2,1e-1", *more)) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len(read_plan(sweep).runs()) == 6 and len(sweep_results(sweep).settings) == 3
    capsys.readouterr()
    assert main(swept(tmp_path, *GRID, "--fit.batch_size", "10")) == 1
    assert "its options was" in capsys.readouterr().err

    assert main(["compare", str(sweep), "--out", str(tmp_path)]) == 0
    seeds = json.loads((tmp_path / "comparison.json").read_text())["seeds"]
    assert [group["seeds"] for group in seeds["groups"]] == [[3, 4]] * 3
    assert [one["paired_seeds"] for one in seeds["comparisons"]] == [[3, 4]] * 2
    rates = [[sweep / f"learning_rate={rate},seed={seed}" for seed in (3, 4)] for rate in ("1e-2", "1e-3")]
    means = [[np.load(run / "evaluation-test.npz")["log_likelihood"].mean() for run in runs] for runs in rates]
    of_seeds = np.subtract(*means)
    found = seeds["comparisons"][0]
    assert found["mean"] == pytest.approx(of_seeds.mean()) and found["name"] == "learning_rate=1e-2"
    assert found["seeds"]["standard_error"] == pytest.approx(of_seeds.std(ddof=1) / np.sqrt(2))
    page = (tmp_path / "comparison.html").read_text()
    assert "New trainings" in page and "learning_rate=1e-2" in page


def test_an_interrupted_sweep_is_gone_on_with_to_the_same_end(here, tmp_path, monkeypatch):
    file = recipe(tmp_path)
    with monkeypatch.context() as patched:
        die_at(patched, 6)
        with pytest.raises(Killed):
            main(swept(tmp_path))
    run = tmp_path / "sweep" / "seed=0"
    assert (run / "checkpoints" / "last.pt").exists() and not (run / "summary.json").exists()
    assert main(["resume", str(tmp_path / "sweep")]) == 0
    assert main(["train", file, "--out", str(tmp_path / "alone")]) == 0
    assert left(run) == left(tmp_path / "alone")


def test_a_run_that_fails_does_not_stop_the_others(here, tmp_path, monkeypatch, caplog, capsys):
    recipe(tmp_path, epochs=1)

    class Failing(Here):
        def __init__(self, commands, run, log):
            super().__init__(commands if run.name != "seed=0" else [["nonsense"]], run, log)

    monkeypatch.setattr("pyro_vae.cli.sweep.run_sweep", functools.partial(run_sweep, start=Failing))
    assert main(swept(tmp_path, "--seeds", "2")) == 1
    said = json.loads((tmp_path / "sweep" / "results.json").read_text())
    assert said["failed"] == {"seed=0": "it failed here"} and said["settings"][0]["seeds"] == [1]
    assert said["settings"][0]["missing"] == 1 and "seed=0 failed: it failed here" in caplog.text
    assert "1 of 2 runs have failed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_goes_on_where_it_was(here, tmp_path, monkeypatch):
    recipe(tmp_path, epochs=1)
    options = ["--range", "fit.learning_rate=1e-4..1e-1:log", "--search"]
    assert main(swept(tmp_path, *options, "2")) == 0
    first = read_plan(tmp_path / "sweep").settings
    assert main(swept(tmp_path, *options, "3")) == 0
    plan = read_plan(tmp_path / "sweep")
    assert plan.settings[:2] == first and len(plan.settings) == 3
    found = sweep_results(tmp_path / "sweep")
    values = [setting.measured["validation"].mean for setting in found.settings]
    assert values == sorted(values, reverse=True)


def test_another_run_in_the_place_of_one_is_refused(here, tmp_path, capsys):
    recipe(tmp_path, epochs=1)
    assert main(swept(tmp_path, "--seeds", "2")) == 0
    shutil.rmtree(tmp_path / "sweep" / "seed=0")
    shutil.copytree(tmp_path / "sweep" / "seed=1", tmp_path / "sweep" / "seed=0")
    capsys.readouterr()
    assert main(["resume", str(tmp_path / "sweep")]) == 1
    assert "is not the run that its name says: its seed is 1, not 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, words",
    [
        (["--grid", "fit.learning_rat=1,2"], "unknown option --fit.learning_rat"),
        (["--grid", "fit.epochs=1,x"], "takes an integer; got 'x'"),
        (["--grid", "seed=1,2"], "say --seeds"),
        (["--seeds", "0"], "--seeds takes how many"),
        (["--seeds", "1,1"], "--seeds takes how many"),
        (["--range", "fit.learning_rate=1e-4..1e-2"], "say --search N"),
        (["--search", "3"], "needs a --range or a --grid"),
        (["--jobs", "0"], "are numbers from 1"),
        ([*GRID, "--range", "fit.learning_rate=1..2", "--search", "2"], "has a grid and a range"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_any_training(here, tmp_path, capsys, options, words):
    recipe(tmp_path)
    assert main(swept(tmp_path, *options)) in (1, 2)
    assert words in capsys.readouterr().err and not (tmp_path / "sweep").exists()


def test_a_search_without_optuna_says_what_is_needed(here, tmp_path, capsys, monkeypatch):
    recipe(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(swept(tmp_path, *GRID, "--search", "2")) == 1
    assert "pip install 'pyro-vae[search]'" in capsys.readouterr().err


def test_settings_are_ranked_by_validation_and_never_by_test(tmp_path, monkeypatch):
    """The one that is best on test comes last here; seeds that all settings have are paired."""
    from pyro_vae.sweeps import Plan

    Plan("vae", "", [], [0, 1, 2], {"a.b": ["1", "2", "3"]}).begun().write(tmp_path)
    means = {0: (-5.0, -9.0), 1: (-7.0, -1.0), 2: (-6.0, -5.0)}
    torch.manual_seed(0)
    noise = np.random.default_rng(0).standard_normal((3, 3, 50)) * 0.1

    def arrays(folder, run, split):
        mean = means[run.setting][split == "test"]
        return {"data_digest": split, "num_data": 50, "given": []}, mean + noise[run.setting, run.seed]

    for name, value in {"arrays_of": arrays, "is_done": lambda *_: True}.items():
        monkeypatch.setattr(results_module, name, value)
    for name in ("check_member", "check_alike"):
        monkeypatch.setattr(results_module, name, lambda *_: None)
    found = sweep_results(tmp_path)
    assert [setting.name for setting in found.settings] == ["b=1", "b=3", "b=2"]
    best, second, third = found.settings
    assert best.difference is None and third.difference.mean == pytest.approx(8.0, abs=0.1)
    assert second.difference.paired and second.p_adjusted < 0.01
    by_seed = noise[2].mean(1) + means[2][1]
    assert second.measured["test"].seed_deviation == pytest.approx(by_seed.std(ddof=1))
    assert second.measured["test"].data_error == pytest.approx(noise[2].mean(0).std(ddof=1) / np.sqrt(50))
    assert "b=3" in str(found) and found.warnings == []


def process(folder, *options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "pyro_vae", *swept(folder, *options)], env=environment, stderr=subprocess.PIPE
    )


def wait_for(condition, seconds=900):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def workers():
    """Processes of sweeps' runs, by their ids."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"pyro_vae.cli.worker" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def own(folder):
    """Of those, the ones that write the logs of a sweep."""
    logs = str(folder / "sweep" / "logs")
    return [
        w for w in workers() if os.path.exists(f"/proc/{w}/fd/1") and os.readlink(f"/proc/{w}/fd/1").startswith(logs)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["the sweep is killed", "a run is killed", "Ctrl-C"])
def test_real_processes_that_are_ended(tmp_path, how):
    """Whatever is ended: what is gone on with ends as ``train`` does, bit for bit."""
    file = recipe(tmp_path, epochs=40)
    runs = [tmp_path / "sweep" / f"seed={seed}" for seed in (0, 1)]
    with process(tmp_path, "--seeds", "2", "--jobs", "2") as at_work:
        wait_for(lambda: all((run / "metrics.jsonl").exists() for run in runs))
        if how == "a run is killed":
            os.kill(own(tmp_path)[0], signal.SIGKILL)
            assert at_work.wait(900) == 1 and b"ended by SIGKILL" in at_work.stderr.read()
        else:
            at_work.send_signal(signal.SIGKILL if how == "the sweep is killed" else signal.SIGINT)
            assert at_work.wait(900) == (-signal.SIGKILL if how == "the sweep is killed" else 130)
    wait_for(lambda: not own(tmp_path))  # they end with it
    if how != "a run is killed":
        assert not all((run / "summary.json").exists() for run in runs)
    done = subprocess.run([sys.executable, "-m", "pyro_vae", "resume", str(tmp_path / "sweep"), "--jobs", "2"])
    assert done.returncode == 0
    for seed, run in enumerate(runs):
        words = ["train", file, "--seed", str(seed), "--out", str(tmp_path / f"alone{seed}")]
        subprocess.run(
            [sys.executable, "-m", "pyro_vae", *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True
        )
        assert left(run) == left(tmp_path / f"alone{seed}")
