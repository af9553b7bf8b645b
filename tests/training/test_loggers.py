"""Loggers: they hold what metrics.jsonl holds, once; one that fails is left out; figures change no number."""

import csv
import errno
import importlib.util
import json
import logging
import re

import pytest
import torch
import yaml
from dying import Killed, die_at
from lightning_fabric import loggers as fabric_loggers

from pyro_vae.cli import main
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE
from pyro_vae.plots import registry
from pyro_vae.runs import Run
from pyro_vae.training import fit, metrics
from pyro_vae.training import loggers as loggers_module
from pyro_vae.training.loop import Trainer


def pair(norm=False):
    torch.manual_seed(3)
    model = VAE((1, 4, 4), latent_dim=2, hidden_dims=[8])
    guide = GaussianGuide(model, hidden_dims=[8])
    if norm:
        guide.encoder = torch.nn.Sequential(torch.nn.BatchNorm2d(1), guide.encoder)
    return model, guide


def data():
    x = (torch.rand(53, 1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    return Data(Split({"x": x[:43]}), Split({"x": x[43:]}))


def run(logger=None, norm=False, **options):
    options = {"epochs": 4, "batch_size": 8, "learning_rate": 0.01, "compile": "off", "device": "cpu", **options}
    given = options.pop("data", None) or data()
    return fit(*pair(norm), given, seed=5, progress=False, logger=logger, **options)


def same(one, two):
    ours, theirs = ([*r.model.state_dict().values(), *r.guide.state_dict().values()] for r in (one, two))
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def of_log(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def of_csv(file):
    """Records as the CSV file has them, numbers as they are written there."""
    with open(file, newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [{name: float(value) for name, value in row.items() if value != ""} for row in rows]


class Telling:
    """The least that a logger is: ``log_metrics``; and what else Fabric's have."""

    def __init__(self):
        self.metrics, self.settings, self.ends, self.saves = [], [], [], 0

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, dict(metrics)))
        metrics.clear()  # of its own

    def log_hyperparams(self, params):
        self.settings.append(params)

    def save(self):
        self.saves += 1

    def finalize(self, status):
        self.ends.append(status)


class Least:
    def __init__(self):
        self.steps = []

    def log_metrics(self, metrics, step=None):
        self.steps.append(step)


def test_they_are_sent_what_the_log_holds(tmp_path):
    one, least = Telling(), Least()
    result = run([one, least], out=tmp_path)
    sent = [{**metrics, "step": step} for step, metrics in one.metrics]
    assert sent == result.records == of_log(tmp_path) and least.steps == [6, 12, 18, 24]
    assert one.saves >= 4 and one.ends == ["success"]
    (settings,) = one.settings
    assert settings["learning_rate"] == "Constant(value=0.01)" and settings["batch_size"] == 8
    assert settings["seed"] == 5 and settings["epochs"] == 4
    assert same(result, run())


def test_without_a_directory():
    one = Telling()
    result = run(one)
    assert [{**metrics, "step": step} for step, metrics in one.metrics] == result.records


def test_csv_holds_what_the_log_holds(tmp_path):
    run("csv", out=tmp_path, patience=2)
    assert of_csv(tmp_path / "logs" / "csv" / "metrics.csv") == of_log(tmp_path)
    assert any("best" in record for record in of_log(tmp_path))  # which some epochs have and others have not


@pytest.mark.parametrize("step", (3, 6, 8, 14, 20))
def test_csv_holds_no_epoch_twice_after_a_kill(step, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        die_at(patch, step)
        with pytest.raises(Killed):
            run("csv", out=tmp_path, checkpoint_every=1e9)  # so that all epochs are gone through again
    assert len(of_log(tmp_path)) == step // 6
    file = tmp_path / "logs" / "csv" / "metrics.csv"
    assert not file.exists() if step < 6 else len(of_csv(file)) == step // 6
    for _ in range(2):
        run("csv", out=tmp_path, resume=True)
        assert of_csv(file) == of_log(tmp_path) and len(of_csv(file)) == 4


def test_csv_that_comes_later_has_the_epochs_before(tmp_path):
    run(out=tmp_path, epochs=2)
    run("csv", out=tmp_path, epochs=3, resume=True)
    assert [row["epoch"] for row in of_csv(tmp_path / "logs" / "csv" / "metrics.csv")] == [1, 2, 3]


def test_loggers_of_fabric(tmp_path):
    """Its CSVLogger refuses settings, which is no failure."""
    own = fabric_loggers.CSVLogger(tmp_path / "own", name="mine")
    run(["csv", own], out=tmp_path / "run")
    files = [tmp_path / "own" / "mine" / "version_0", tmp_path / "run" / "logs" / "csv"]
    assert of_csv(files[0] / "metrics.csv") == of_csv(files[1] / "metrics.csv") == of_log(tmp_path / "run")


def test_how_training_ended(tmp_path, monkeypatch):
    one = Telling()
    with monkeypatch.context() as patch:
        die_at(patch, 7)
        with pytest.raises(Killed):
            run(one, out=tmp_path)
    assert one.ends == ["failed"] and len(one.metrics) == 1
    one = Telling()
    monkeypatch.setattr(Trainer, "_finish_epoch", lambda self, started: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(one)
    assert one.ends == ["aborted"]


# ------------------------------------------------------------------ failing


class Throwing(Telling):
    def __init__(self, method, after=0):
        super().__init__()
        self.calls, inner = 0, getattr(self, method)

        def throw(*arguments):
            self.calls += 1
            if self.calls > after:
                raise OSError(errno.ENOSPC, "No space left on device")
            return inner(*arguments)

        setattr(self, method, throw)


@pytest.mark.parametrize("after", (0, 2))
@pytest.mark.parametrize("method", ("log_hyperparams", "log_metrics", "save", "finalize"))
def test_one_that_throws_is_left_out_with_one_line(method, after, tmp_path, caplog):
    one, other = Throwing(method, after), Telling()
    with caplog.at_level(logging.WARNING):
        result = run([one, other], out=tmp_path)
    told = [record.getMessage() for record in caplog.records]
    fails = after == 0 or method in ("log_metrics", "save")
    words = "logger Throwing failed, and training goes on without it: OSError: [Errno 28] No space left on device"
    assert told == [words] * fails
    assert one.calls == (after + 1 if fails else 1)  # and never again
    assert one.ends == [] if fails else one.ends == ["success"]
    assert len(other.metrics) == 4 and other.ends == ["success"]
    assert same(result, run())


def test_a_name_whose_file_cannot_be_written(tmp_path, monkeypatch, caplog):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fabric_loggers.csv_logs._ExperimentWriter, "save", full)
    result = run("csv", out=tmp_path)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "logger csv failed, and training goes on without it: OSError: [Errno 28] No space left on device"
    assert same(result, run())


@pytest.mark.parametrize("what", ("checkpoint", "log"))
def test_a_full_disk_in_the_middle(what, tmp_path, monkeypatch):
    """One clear error; the last checkpoint is whole, and training goes on from it when there is room again."""
    count, save, opened = 0, torch.save, metrics.os.open

    def full(value, path, *arguments):
        nonlocal count
        count += 1
        if count > 3:
            with open(path, "wb") as file:
                file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(value, path, *arguments)

    def full_log(*arguments):
        nonlocal count
        count += 1
        if count > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(*arguments)

    with monkeypatch.context() as patch:
        if what == "checkpoint":
            patch.setattr(torch, "save", full)
        else:
            patch.setattr(metrics, "os", type("os", (), {**vars(metrics.os), "open": staticmethod(full_log)}))
        with pytest.raises(InputError, match=r"cannot write .*No space left on device.*(unharmed).*resume") as caught:
            run("csv", out=tmp_path, checkpoint_every=0.0)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob(".pyro_vae-*"))
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert state["progress"]["step"] >= 12
    resumed = run("csv", out=tmp_path, resume=True)
    assert same(resumed, run()) and resumed.epochs == 4
    assert of_csv(tmp_path / "logs" / "csv" / "metrics.csv") == of_log(tmp_path)


# ------------------------------------------------------------------ what is refused


class NoLogger:
    pass


REFUSED = {
    "unknown": ("cvs", {}, "unknown logger 'cvs'. Did you mean 'csv'?"),
    "unknown of two": ("csv, wandb", {}, "unknown logger 'wandb'. Known: csv, tensorboard."),
    "a class": (Telling, {}, "logger: Telling is a class: give an object of it"),
    "another object": (NoLogger(), {}, "logger: NoLogger has no log_metrics(metrics, step): give a name"),
    "no directory": ("csv", {"out": None}, "logger 'csv' writes into the run directory: give out as well"),
    "pictures for nobody": (None, {"log_images_every": 1}, "log_images_every needs a logger that takes figures"),
    "pictures for CSV": ("csv", {"log_images_every": 1}, "log_images_every needs a logger that takes figures"),
    "never": (None, {"log_images_every": 0}, "log_images_every must be a positive integer, got 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_logger_is_refused(case, tmp_path):
    logger, options, message = REFUSED[case]
    with pytest.raises(InputError, match=re.escape(message)):
        run(logger, **{"out": tmp_path / "run", **options})
    assert not (tmp_path / "run").exists()


def test_a_package_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers_module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=re.escape("needs its package: pip install 'pyro-vae[loggers]'")):
        run("tensorboard", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_logs_of_somebody_else_are_not_replaced(tmp_path):
    file = tmp_path / "logs" / "csv" / "metrics.csv"
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(InputError, match="csv holds logs already, which training would replace"):
        run("csv", out=tmp_path)
    assert file.read_text() == "mine" and [*tmp_path.iterdir()] == [tmp_path / "logs"]
    run(out=tmp_path)  # without the logger nothing there is in the way


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "logs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link to"):
        run("csv", out=tmp_path / "run")
    assert not [*(tmp_path / "elsewhere").iterdir()]


# ------------------------------------------------------------------ figures


class Experiment:
    def __init__(self):
        self.figures = []

    def add_figure(self, tag, figure, global_step=None):
        torch.manual_seed(1)  # whatever it does there
        self.figures.append((tag, global_step, figure))


class Pictures(Telling):
    def __init__(self):
        super().__init__()
        self.experiment = Experiment()


CASES = {
    "plain": {},
    "averaged": {"ema_decay": 0.9},
    "norm": {"norm": True},
    "norm and average": {"norm": True, "ema_decay": 0.9, "patience": 3},
    "recorded": {"compile": "graph"},
}


@pytest.mark.parametrize("case", CASES)
def test_figures_change_no_number(case, tmp_path):
    one = Pictures()
    with_figures = run([one], log_images_every=2, out=tmp_path, checkpoint_every=0.0, **CASES[case])
    plain = run(**CASES[case])
    assert [figure[:2] for figure in one.experiment.figures] == [
        (tag, step) for step in (12, 24) for tag in ("reconstructions", "prior_samples")
    ]
    assert same(with_figures, plain)
    drop = {"seconds"}
    ours, theirs = ([{k: v for k, v in r.items() if k not in drop} for r in x.records] for x in (with_figures, plain))
    assert ours == theirs


def test_figures_show_the_weights_that_are_validated(monkeypatch):
    """The averaged ones: a decoder's that the figure is drawn of is theirs."""
    seen = []
    draw = registry.Entry.draw

    def noting(self, shown):
        seen.append(shown.model.program.state_dict()["decoder.mlp.out.bias"].clone())
        assert len(shown.split) == 10  # validation
        return draw(self, shown)

    monkeypatch.setattr(registry.Entry, "draw", noting)
    result = run([Pictures()], log_images_every=4, ema_decay=0.9)
    assert torch.equal(seen[-1], result.model.state_dict()["decoder.mlp.out.bias"])


def test_a_figure_that_cannot_be_drawn_is_told_of_once(monkeypatch, caplog):
    entry = registry.figures()["reconstructions"]
    fails = registry.Entry(entry.name, lambda model: 1 / 0, entry.section, "", 0, None)
    monkeypatch.setitem(registry._entries, "reconstructions", fails)
    one = Pictures()
    result = run([one], log_images_every=1)
    told = [record.getMessage() for record in caplog.records]
    assert told == ["no figure 'reconstructions' for the loggers: ZeroDivisionError: division by zero"]
    assert [figure[0] for figure in one.experiment.figures] == ["prior_samples"] * 4
    assert same(result, run())


def test_a_logger_that_throws_at_a_figure_is_left_out(caplog):
    one = Pictures()
    one.experiment.add_figure = lambda *arguments: 1 / 0
    other = Pictures()
    run([one, other], log_images_every=2)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        "logger Pictures failed, and training goes on without it"
    ]
    assert len(one.metrics) == 2 and len(other.experiment.figures) == 4


# ------------------------------------------------------------------ TensorBoard


def test_tensorboard_is_told_from_which_step_on_older_events_do_not_count(tmp_path, monkeypatch):
    """With a stand-in for Fabric's class: what it is made with."""
    made = []

    class StandIn(Pictures):
        def __init__(self, root, name, version, **options):
            super().__init__()
            made.append((root / version, name, options["purge_step"], self))
            (root / version).mkdir(parents=True, exist_ok=True)
            (root / version / "events.out").touch()

    monkeypatch.setattr(loggers_module, "find_spec", lambda name: True)
    monkeypatch.setattr(fabric_loggers, "TensorBoardLogger", StandIn)
    with monkeypatch.context() as patch:
        die_at(patch, 20)
        with pytest.raises(Killed):
            run("tensorboard", out=tmp_path, checkpoint_every=1e9, log_images_every=3)
    run("tensorboard", out=tmp_path, epochs=4, resume=True)
    run("tensorboard,csv", out=tmp_path, epochs=5, resume=True)
    assert [each[0] for each in made] == [tmp_path / "logs" / "tensorboard"] * 3
    assert [each[2] for each in made] == [None, 1, 25]
    assert [[step for step, _ in each[3].metrics] for each in made] == [[6, 12, 18], [6, 12, 18, 24], [30]]
    assert len(made[0][3].experiment.figures) == 2


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


def test_the_event_file_holds_what_the_log_holds(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    with monkeypatch.context() as patch:
        die_at(patch, 20)
        with pytest.raises(Killed):
            run("tensorboard", out=tmp_path, checkpoint_every=1e9, log_images_every=2)
    run("tensorboard,csv", out=tmp_path, resume=True, log_images_every=2)
    found, log = events(tmp_path / "logs" / "tensorboard"), of_log(tmp_path)
    assert len(log) == 4
    assert {*found.Tags()["scalars"]} == {name for record in log for name in record} - {"step"}
    for name in found.Tags()["scalars"]:
        scalars = [(event.step, event.value) for event in found.Scalars(name)]
        expected = [(record["step"], record[name]) for record in log if name in record]
        assert [step for step, _ in scalars] == [step for step, _ in expected], name  # no epoch twice
        assert [value for _, value in scalars] == pytest.approx([value for _, value in expected], rel=1e-6)
    assert [image.step for image in found.Images("reconstructions")] == [12, 24]
    assert of_csv(tmp_path / "logs" / "csv" / "metrics.csv") == log


# ------------------------------------------------------------------ command line


SMALL = "--data.limit 100 --data.binarization threshold --fit.epochs 2 --fit.batch_size 20 --fit.device cpu"
SMALL += " --fit.patience null --model.hidden_dims [8] --guide.hidden_dims [8]"


def test_on_the_command_line(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "vae", *SMALL.split(), "--fit.logger", "csv", "--out", str(out)]) == 0
    file = out / "logs" / "csv" / "metrics.csv"
    assert of_csv(file) == of_log(out) and len(of_log(out)) == 2
    assert main(["resume", str(out), "--fit.epochs", "3"]) == 0
    assert of_csv(file) == of_log(out) and len(of_log(out)) == 3
    assert main(["train", "vae", *SMALL.split(), "--fit.logger", "cvs", "--out", str(tmp_path / "no")]) == 1
    assert "Did you mean 'csv'" in capsys.readouterr().err and not (tmp_path / "no" / "config.yaml").exists()


def test_a_run_takes_up_a_logger_later(tmp_path):
    out = tmp_path / "run"
    assert main(["train", "vae", *SMALL.split(), "--out", str(out)]) == 0
    assert main(["resume", str(out), "--fit.epochs", "3", "--fit.logger", "csv"]) == 0
    assert of_csv(out / "logs" / "csv" / "metrics.csv") == of_log(out) and len(of_log(out)) == 3
    assert Run(out).config.fit.logger == "csv"


NAMES = {"one": "csv", "two": "tensorboard,csv", "a list": ["csv", "tensorboard"], "none": None}
FOREIGN = {
    "a class": {"class_path": "os.system", "init_args": {"command": "touch x"}},
    "a path": "lightning_fabric.loggers.CSVLogger",
    "in a list": ["csv", "os.system"],
    "a mapping in a list": [{"class_path": "os.system"}],
    "unknown": "wandb",
    "with a comma": "csv,os",
    "a number": 3,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "run"
    assert main(["train", "vae", *SMALL.split(), "--out", str(out)]) == 0
    return (out / "config.yaml").read_text(), out


@pytest.mark.parametrize("section", ("fit", "first"))
@pytest.mark.parametrize("case", NAMES | FOREIGN)
def test_a_configuration_that_is_not_trusted_names_known_loggers_only(case, section, made):
    text, out = made
    config = yaml.safe_load(text)
    if section == "first":
        config["first"] = {name: config[name] for name in ("model", "guide", "objective")} | {"fit": {}}
    (config["fit"] if section == "fit" else config["first"]["fit"])["logger"] = (NAMES | FOREIGN)[case]
    (out / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if case in NAMES:
        Run(out)
    else:
        with pytest.raises(InputError, match=r"logger|code outside pyro_vae"):
            Run(out)


def test_the_extra_is_what_the_message_says():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert any(each.startswith("tensorboard") for each in project["optional-dependencies"]["loggers"])
    assert importlib.util.find_spec("lightning_fabric")
