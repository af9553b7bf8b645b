"""What becomes of a run directory: nothing of the user's is replaced, and a changed experiment is not gone on with."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from safetensors.torch import load_file

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError, NonFiniteLossError
from pyro_vae.files import locked
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.runs import Run, load
from pyro_vae.runs.directory import stored_weights_digest
from pyro_vae.runs.measurements import weights_digest
from pyro_vae.runs.sections import HARMLESS, SINCE, experiment_entries, flattened
from pyro_vae.training import Aggressive, Constant, Cyclical, Linear, Sigmoid, fit
from pyro_vae.training.experiment import described, state_digest

OPTIONS = ["--data.limit", "60", "--fit.batch_size", "20", "--fit.compile", "off", "--fit.device", "cpu"]
SMALL = [*OPTIONS, "--model.hidden_dims", "[8]", "--guide.hidden_dims", "[8]", "--model.latent_dim", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("directories") / "run"
    assert main(["train", "vae", "--out", str(out), "--fit.epochs", "2", "--fit.checkpoint_every", "0", *SMALL]) == 0
    return out


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def begun(run):
    """The run as it was after its first epoch."""
    (run / "checkpoints" / "previous.pt").replace(run / "checkpoints" / "last.pt")
    (run / "summary.json").unlink()
    return run


def refusal(capsys, *arguments):
    capsys.readouterr()
    assert main([str(each) for each in arguments]) in (1, 2)
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told.strip().splitlines()[-1]


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ------------------------------------------------------------------------- nothing of the user's is replaced
OWN = {
    "a recipe of one's own": "config.yaml",
    "another tool's weights": "model.safetensors",
    "another tool's log": "metrics.jsonl",
    "a summary": "summary.json",
    "checkpoints": "checkpoints/epoch1.ckpt",
    "a folder called first": "first/notes.txt",
    "a folder called priors": "priors/notes.txt",
    "a folder called ranker": "ranker/notes.txt",
}


@pytest.mark.parametrize("what", OWN)
def test_training_replaces_nothing(what, tmp_path, capsys):
    file = tmp_path / "out" / OWN[what]
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    before = contents(tmp_path / "out")
    assert OWN[what].split("/")[0] in refusal(capsys, "train", "vae", "--out", tmp_path / "out", *SMALL)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.jsonl", "checkpoints/last.pt"])
def test_nor_does_training_from_python(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        fitted(tmp_path)
    assert contents(tmp_path) == {name: b"mine"}


def test_a_refused_training_leaves_what_it_found(tmp_path, capsys):
    recipe = tmp_path / "out" / "mine.yaml"
    recipe.parent.mkdir()
    config = pyro_vae.recipes.read_recipe("vae")
    config["data"]["binarization"] = "none"  # grey levels under Bernoulli
    recipe.write_text(yaml.safe_dump(config))
    before = contents(recipe.parent)
    assert "Binarize" in refusal(capsys, "train", recipe, "--out", recipe.parent, *SMALL)
    assert contents(recipe.parent) == before
    assert "--out is empty" in refusal(capsys, "train", "vae", "--out", "", *SMALL)


def test_a_run_that_has_lost_its_checkpoints_is_not_begun_anew(run, capsys):
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    assert "nothing was changed" in refusal(capsys, "resume", run)
    with pytest.raises(InputError, match="without checkpoints"):
        Run(run).train(Run(run).data(), resume=True)
    assert contents(run) == before


def test_initial_weights_are_told_from_trained_ones(trained, tmp_path, caplog):
    """A kill before the first checkpoint: there is nothing to lose, and resume begins."""
    run = Run.create(tmp_path / "run", Run(trained).config, "vae", Run(trained).data())
    pyro_vae.load(run.path)
    assert "holds initial weights" in caplog.text
    assert main(["resume", str(run.path)]) == 0
    for name in ("model.safetensors", "metrics.jsonl"):
        ours, theirs = ((folder / name).read_text(errors="replace") for folder in (run.path, trained))
        if name == "metrics.jsonl":
            ours, theirs = (
                [{**json.loads(line), "seconds": 0} for line in text.splitlines()] for text in (ours, theirs)
            )
        assert ours == theirs


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_is_honoured(mask, tmp_path):
    old = os.umask(mask)
    try:
        pyro_vae.files.write_json(tmp_path / "x.json", {})
    finally:
        os.umask(old)
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o666 & ~mask


LINKS = {
    "checkpoints": ("resume", "--fit.epochs", "3"),
    "metrics.jsonl": ("resume", "--fit.epochs", "3"),
    "figures": ("figures",),
    "priors": ("train-prior", "pixelcnn", "--on"),
}


@pytest.mark.parametrize("name", LINKS)
def test_nothing_is_written_through_links(name, run, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    if (run / name).exists():
        (run / name).rename(elsewhere)
    else:
        elsewhere.mkdir()
    (run / name).symlink_to(elsewhere)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    command, *options = LINKS[name]
    arguments = [command, *options, run] if options and options[-1] == "--on" else [command, run, *options]
    told = refusal(capsys, *arguments)
    assert "is a link to" in told or name == "priors"  # this run's model has no codes
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_run_may_itself_be_reached_through_a_link(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    assert main(["resume", str(tmp_path / "link"), "--fit.epochs", "3"]) == 0


# ------------------------------------------------------------------------- the same experiment, or a sentence
CHANGED = {  # key of config.yaml -> another value; None: not in this configuration
    "data.binarization": "static",
    "data.limit": 50,
    "data.colours": "lab",
    "model.latent_dim": 3,
    "model.hidden_dims": [9],
    "model.likelihood": "pyro_vae.likelihoods.ContinuousBernoulli",
    "guide.hidden_dims": [9],
    "objective.class_path": "pyro_vae.objectives.IWAE",
    "objective.num_particles": 2,
    "objective.free_bits": 0.5,
    "objective.free_bits_of": "datum",
    "fit.batch_size": 30,
    "fit.length_buckets": 2,
    "fit.aggressive": {"class_path": "pyro_vae.training.Aggressive"},
    "fit.optimizer": "sgd",
    "fit.optimizer_options": {"eps": 0.1},
    "fit.param_groups": {"guide.*": {"lr": 0.1}},
    "fit.lr_scheduler": "ReduceLROnPlateau",
    "fit.lr_scheduler_options": {"gamma": 0.1},
    "fit.lr_scheduler_interval": "step",
    "fit.grad_accumulation": 2,
    "fit.learning_rate": 0.5,
    "fit.kl_weight": 0.5,
    "fit.clip_norm": 1.0,
    "fit.ema_decay": 0.9,
    "fit.patience": 3,
    "fit.precision": "64-true",
    "seed": 5,
}


def with_changed(run, key, value):
    file = run / "config.yaml"
    config = yaml.safe_load(file.read_text())
    section, _, name = key.partition(".")
    if not name:
        config[section] = value
    elif name == "class_path" or section in ("data", "fit"):
        config[section][name] = value
    else:
        config[section]["init_args"][name] = value
    file.write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.mark.parametrize("key", CHANGED)
def test_what_is_changed_is_refused_by_its_name(key, begun, capsys):
    with_changed(begun, key, CHANGED[key])
    before = contents(begun)
    told = refusal(capsys, "resume", begun)
    assert key.split(".")[-1] in told, told
    assert contents(begun) == before


UNCHANGED = {"fit.checkpoint_every": 7.0, "fit.compile": "auto", "fit.epochs": 2}


@pytest.mark.parametrize("key", UNCHANGED)
def test_what_does_not_matter_is_taken(key, begun, trained):
    assert key in HARMLESS
    with_changed(begun, key, UNCHANGED[key])
    assert main(["resume", str(begun)]) == 0
    assert (begun / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_every_key_of_a_configuration_is_one_or_the_other(trained):
    """All that config.yaml says is compared, but for what is listed as harmless, and options at what they once were."""
    config = flattened(Run(trained).config.as_dict())
    compared = {name.removeprefix("config.yaml ") for name in experiment_entries(Run(trained).config)}
    later = {name for name, _ in SINCE}
    assert later <= CHANGED.keys() and not later & set(HARMLESS)
    assert compared | set(HARMLESS) | later >= set(config) and not compared & set(HARMLESS)


def test_data_that_have_changed_are_refused_and_told_of(tmp_path, capsys, caplog):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (60, 1, 8, 8)).astype(np.float32)
    file = tmp_path / "x.npy"
    np.save(file, x)
    out = tmp_path / "run"
    options = [*SMALL, "--data.name", file, "--data.binarization", "none", "--fit.checkpoint_every", "0"]
    arguments = ["train", "vae", "--out", out, *options, "--data.limit", "null", "--fit.epochs", "2"]
    assert main([str(each) for each in arguments]) == 0
    assert Run(out).config.data.name == str(file)
    (out / "checkpoints" / "previous.pt").replace(out / "checkpoints" / "last.pt")
    np.save(file, np.concatenate([x, x[:1]]))
    before = contents(out)
    assert "training data was" in refusal(capsys, "resume", out)
    assert contents(out) == before
    assert main(["evaluate", str(out), "--particles", "2"]) == 0
    assert "the data are not those that the run was begun with (train" in caplog.text
    np.save(tmp_path / "y.npy", x)
    file.unlink()
    assert "say so in its config.yaml (data.name)" in refusal(capsys, "evaluate", out)
    assert main(["resume", str(out), "--data.name", str(tmp_path / "y.npy")]) == 0  # the same, elsewhere
    caplog.clear()
    assert main(["evaluate", str(out), "--particles", "2"]) == 0 and "not those" not in caplog.text


def test_paths_of_data_are_found_from_everywhere(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, (60, 1, 8, 8)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    options = [
        *SMALL,
        "--data.name",
        "x.npy",
        "--data.binarization",
        "none",
        "--data.limit",
        "null",
        "--fit.epochs",
        "1",
    ]
    assert main(["train", "vae", "--out", "run", *options]) == 0
    monkeypatch.chdir("/")
    assert main(["evaluate", str(tmp_path / "run"), "--particles", "2"]) == 0


@pytest.mark.parametrize(
    "more",
    [{}, {"ema_decay": 0.9}, {"learning_rate": Linear(1e-2, 1e-3, 3), "optimizer": "adamw"}],
    ids=["plain", "averaged", "scheduled"],
)
def test_more_epochs_go_on_to_the_result_of_one_training(more, tmp_path):
    whole = fitted(tmp_path / "whole", epochs=5, **more)
    fitted(tmp_path / "parts", epochs=2, **more)
    parts = fitted(tmp_path / "parts", epochs=5, resume=True, **more)
    assert parts.stopped == whole.stopped == "all 5 epochs" and len(parts.records) == 5
    ours, theirs = (folder / "model.safetensors" for folder in (tmp_path / "parts", tmp_path / "whole"))
    assert ours.read_bytes() == theirs.read_bytes()
    with pytest.raises(InputError, match="it cannot be fewer"):
        fitted(tmp_path / "parts", epochs=3, resume=True, **more)


def test_more_epochs_on_the_command_line(run, tmp_path, capsys):
    options = ["--fit.epochs", "4", "--fit.checkpoint_every", "0", *SMALL]
    assert main(["train", "vae", "--out", str(tmp_path / "whole"), *options]) == 0
    assert main(["resume", str(run), "--fit.epochs", "4"]) == 0
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert Run(run).config.fit.epochs == 4 and json.loads((run / "summary.json").read_text())["epochs"] == 4
    assert "cannot be fewer" in refusal(capsys, "resume", run, "--fit.epochs", "1")
    (run / "priors" / "codes").mkdir(parents=True)
    (run / "priors" / "codes" / "config.yaml").write_text("prior: x")
    assert "priors were learned" in refusal(capsys, "resume", run, "--fit.epochs", "9")
    with pytest.raises(InputError, match=r"fit\.learning_rate cannot change"):
        Run(run).change(fit={"learning_rate": 1.0})


def test_another_version_is_said_and_gone_on_with(begun, monkeypatch, caplog):
    monkeypatch.setattr(pyro_vae, "__version__", "99.0")
    assert main(["resume", str(begun)]) == 0
    assert "is gone on with 99.0: results may differ" in caplog.text


def test_settings_in_words():
    """The same in another process, and different where the settings are."""
    settings = [ELBO(), ELBO(2), ELBO(free_bits=0.1), IWAE(2), IWAE(2, "dreg"), Constant(1.0), Linear(0, 1, 2)]
    settings += [
        Aggressive(),
        Aggressive(5),
        ELBO(free_bits=0.1, free_bits_of="datum"),
        Sigmoid(0, 1, 2),
        Sigmoid(0, 1, 2, 3),
        Cyclical(0, 1, 2),
    ]
    words = [described(each) for each in settings]
    assert len(set(words)) == len(words) and not any(" at 0x" in each for each in words)
    assert "free_bits_of" not in described(ELBO(free_bits_of="batch"))  # nor does a run of before say it
    assert described({"b": [1, 2.0], "a": None}) == "{a: None, b: [1, 2.0]}"


@pytest.mark.parametrize("change", ["value", "name", "dtype", "shape", "place"])
def test_the_digest_of_a_state_sees(change):
    state = {"weights": {"a": torch.zeros(2, 3), "b": torch.ones(1)}, "list": [1, 2.0, None], "text": "x"}
    other = {
        "value": {**state, "weights": {**state["weights"], "b": torch.ones(1) + 2**-23}},
        "name": {**state, "weights": {"a": torch.zeros(2, 3), "c": torch.ones(1)}},
        "dtype": {**state, "weights": {**state["weights"], "a": torch.zeros(2, 3, dtype=torch.int32)}},
        "shape": {**state, "weights": {**state["weights"], "a": torch.zeros(3, 2)}},
        "place": {**state, "list": [2.0, 1, None]},
    }[change]
    assert state_digest(state) == state_digest(dict(state)) != state_digest(other)


# ------------------------------------------------------------------------- one at a time
def test_two_trainings_in_one_directory(run, capsys):
    code = "import sys, time; from pathlib import Path; from pyro_vae.files import locked\n"
    code += "with locked(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, run], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        before = contents(run)
        assert "another training is at work" in refusal(capsys, "resume", run, "--fit.epochs", "3")
        assert contents(run) == before
        other.kill()
    assert main(["resume", str(run), "--fit.epochs", "3"]) == 0  # a kill leaves no lock behind


def test_locks_of_threads_and_blocks_within_one_another(tmp_path):
    refused = []

    def other():
        try:
            with locked(tmp_path):
                pass
        except InputError as error:
            refused.append(str(error))

    with locked(tmp_path), locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    with locked(tmp_path):
        pass


def test_a_local_rank_in_the_environment_loses_no_run(tmp_path, monkeypatch):
    """torchrun and cluster schedulers set it, also for processes that train alone."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["train", "vae", "--out", str(tmp_path / "run"), "--fit.epochs", "1", *SMALL]) == 0
    assert (tmp_path / "run" / "summary.json").is_file()
    pyro_vae.load(tmp_path / "run")


# ------------------------------------------------------------------------- numbers that are none
def fitted(out, **options):
    torch.manual_seed(0)
    model = pyro_vae.models.VAE((1, 4, 4), latent_dim=2, hidden_dims=[8])
    guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=[8])
    x = (torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    options = {"epochs": 1, "batch_size": 10, "compile": "off", "progress": False, "device": "cpu", **options}
    return fit(model, guide, x, out=out, **options)


def test_a_validation_loss_that_is_no_number_names_datum_and_epoch(tmp_path):
    def model(x):
        shift = pyro.param("shift", torch.zeros(()))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            far = torch.where(x > 100, torch.inf, z + shift)
            pyro.sample("x", dist.Normal(far, 1.0, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    held_out = torch.tensor([1.0, 2.0, 1000.0])
    data = Data(Split({"x": torch.randn(20)}), validation=Split({"x": held_out}))
    with pytest.raises(NonFiniteLossError, match=r"after epoch 1 .*validation datum 2 alone"):
        fit(model, guide, data, epochs=2, batch_size=10, out=tmp_path, progress=False, device="cpu")
    assert (tmp_path / "checkpoints" / "last.pt").is_file()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text


# ------------------------------------------------------------------------- the machine
def test_a_closed_pipe_and_a_full_output(run):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = f"{sys.executable} -m pyro_vae recipes"
    piped = subprocess.run(f"{command} | head -c 1", shell=True, env=environment, capture_output=True, text=True)
    assert "Traceback" not in piped.stderr and "Exception ignored" not in piped.stderr
    if os.path.exists("/dev/full"):
        full = subprocess.run(f"{command} > /dev/full", shell=True, env=environment, capture_output=True, text=True)
        assert full.returncode == 1 and "No space left" in full.stderr and "Traceback" not in full.stderr


MACHINE = {
    "memory": (MemoryError(), "out of memory"),
    "a GPU's memory": (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory"),
    "permission": (PermissionError(13, "Permission denied", "/x/y"), "/x/y: Permission denied"),
    "a full disk": (OSError(28, "No space left on device", "/x/y"), "/x/y: No space left on device"),
    "depth": (RecursionError(), "nested too deeply"),
    "no GPU": (RuntimeError("Found no NVIDIA driver on your system."), "NVIDIA"),
}


@pytest.mark.parametrize("what", MACHINE)
def test_what_is_the_machines_is_said_in_a_sentence(what, monkeypatch, capsys):
    error, words = MACHINE[what]

    def fails(arguments):
        raise error

    monkeypatch.setattr("pyro_vae.cli.show.recipes", fails)
    assert words in refusal(capsys, "recipes")


ARGUMENTS = {
    "an option of the wrong type": ("--fit.optimizer_options", '{"betas": 5}', "refuses its options"),
    "an option that is a text": ("--fit.optimizer_options", '{"eps": "x"}', "refuses its options"),
    "an unknown option": ("--fit.optimizer_options", '{"nope": 1}', "refuses its options"),
    "an unknown device": ("--fit.device", "foo", "device 'foo'"),
    "a GPU that is not there": ("--fit.device", "cuda:7", "device 'cuda:7'"),
    "more processes than the machine has": ("--fit.num_devices", "4000", "this machine has"),
    "a seed below 0": ("--seed", "-1", "seed"),
    "a seed beyond 64 bits": ("--seed", "99999999999999999999", "seed"),
    "a seed that is no integer": ("--seed", "1.5", "seed"),
    "a learning rate that is no number": ("--fit.learning_rate", "nan", "learning_rate"),
    "a model too large for memory": ("--model.latent_dim", "99999999999", "model"),
    "a name that is no text": ("--data.name", "\udcff.npz", "no such file"),
    "a directory that is none": ("--out", "/dev/null/x", "Not a directory"),
}


@pytest.mark.parametrize("what", ARGUMENTS)
def test_unusable_arguments_are_sentences(what, tmp_path, capsys):
    *words, told = ARGUMENTS[what]
    assert told in refusal(capsys, "train", "vae", "--out", tmp_path / "run", *OPTIONS, *words)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_other_errors_are_not_hidden(monkeypatch):
    def fails(arguments):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("pyro_vae.cli.show.recipes", fails)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["recipes"])


# ------------------------------------------------------------------ weights of this configuration
@pytest.mark.parametrize(("key", "value"), [("model.activation", "relu"), ("guide.min_scale", 0.5), ("seed", 7)])
def test_weights_are_told_from_those_of_another_configuration(key, value, run, caplog):
    pyro_vae.load(run)
    assert "trained otherwise" not in caplog.text
    with_changed(run, key, value)
    pyro_vae.load(run)
    assert f"trained otherwise than its configuration says: config.yaml {key} was" in caplog.text


def test_what_may_change_is_not_told_of(run, caplog):
    assert main(["resume", str(run), "--fit.epochs", "3"]) == 0
    with_changed(run, "fit.device", "cpu")
    pyro_vae.load(run)
    assert "trained otherwise" not in caplog.text


def test_weights_are_digested_by_names_and_bytes_alike_in_memory_and_on_disk(trained):
    model, guide = load(trained)
    tensors = load_file(trained / "model.safetensors")
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].numpy().tobytes())
    assert weights_digest(model, guide) == stored_weights_digest(trained / "model.safetensors") == found.hexdigest()
