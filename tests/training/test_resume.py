"""Interrupted, killed, resumed: the same weights and the same log, bit for bit."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from dying import Killed, die_at

import pyro_vae
from pyro_vae.data import Data, Split
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.guides import GaussianGuide
from pyro_vae.likelihoods import RecurrentTokens
from pyro_vae.models import VAE
from pyro_vae.networks import RecurrentEncoder
from pyro_vae.objectives import ELBO, GAN, IWAE, Matching, TotalCorrelation
from pyro_vae.training import Aggressive, Cyclical, Linear, fit
from pyro_vae.training import loop as trainer_module
from pyro_vae.training import state as state_module
from pyro_vae.training.loop import Trainer

EPOCHS = 5


def pair():
    torch.manual_seed(3)
    model = VAE((6,), latent_dim=2, hidden_dims=[8])
    return model, GaussianGuide(model, hidden_dims=[8])


def sentences():
    """A model of tokens, whose data have lengths."""
    torch.manual_seed(5)
    likelihood = RecurrentTokens((7,), num_tokens=5, features=3, embedding_dim=3, hidden_dim=6)
    model = VAE((7,), latent_dim=2, hidden_dims=(), likelihood=likelihood)
    return model, GaussianGuide(model, encoder=RecurrentEncoder((7,), 5, outputs=4, embedding_dim=3, hidden_dim=6))


def functions():
    """The same kind of model as plain functions, with ``pyro.param`` and a module by name."""
    torch.manual_seed(4)
    decoder = torch.nn.Linear(2, 6)

    def model(x):
        scale = pyro.param("prior.scale", torch.ones(2), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), scale).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        weight = pyro.param("weight", torch.full((6, 2), 0.1))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x @ weight, 0.5).to_event(1))

    return model, guide


def batch_norm():
    """An encoder with running statistics: buffers must be resumed as well as parameters."""
    model, guide = pair()
    guide.encoder = torch.nn.Sequential(torch.nn.BatchNorm1d(6), guide.encoder)
    return model, guide


def digits(binarization="none"):
    x = torch.rand(53, 6, generator=torch.Generator().manual_seed(1))
    if binarization == "tokens":
        x = torch.where(torch.arange(7) < (x[:, :1] * 7).long(), 1 + (x[:, :1] * 4).long(), 0)
        return Data(Split({"x": x[:43]}, integers=True), Split({"x": x[43:]}, integers=True))
    if binarization == "none":
        x = (x < 0.4).float()
    return Data(Split({"x": x[:43]}, binarization=binarization), Split({"x": x[43:]}, binarization=binarization))


def state_of(result):
    programs = {"model": result.model, "guide": result.guide}
    return {f"{p}.{k}": v.clone() for p, m in programs.items() for k, v in m.state_dict().items()}


def without_seconds(records):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records]


def log_of(path):
    return without_seconds([json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()])


CASES = {
    "plain": (pair, "none", {}),
    "dynamic": (pair, "dynamic", {}),
    "ema": (pair, "none", {"ema_decay": 0.9}),
    "warm-up": (pair, "dynamic", {"kl_weight": Linear(0.0, 1.0, 2), "learning_rate": Linear(1e-2, 1e-3, 4)}),
    "cycles": (pair, "none", {"kl_weight": Cyclical(0.0, 1.0, 3, cycles=2)}),
    "early stopping": (pair, "none", {"patience": 2, "ema_decay": 0.8, "learning_rate": 0.03}),
    "iwae": (pair, "none", {"objective": IWAE(num_particles=3, gradient="dreg")}),
    "clipped": (pair, "none", {"clip_norm": 0.1, "objective": ELBO(num_particles=2, free_bits=0.1)}),
    "functions": (functions, "none", {"ema_decay": 0.9, "patience": 3}),
    "buffers": (batch_norm, "dynamic", {"optimizer": "adamax"}),
    "double": (pair, "none", {"precision": "64-true", "optimizer": "adamw"}),
    "bf16": (pair, "none", {"precision": "bf16-mixed"}),
    "recorded": (batch_norm, "dynamic", {"compile": "graph", "kl_weight": Linear(0.0, 1.0, 2), "ema_decay": 0.9}),
    "recorded bf16": (pair, "none", {"compile": "graph", "precision": "bf16-mixed", "clip_norm": 0.1}),
    "aggressive": (pair, "dynamic", {"aggressive": Aggressive(5, 2, num_data=8), "ema_decay": 0.9}),
    "aggressive, recorded": (batch_norm, "none", {"aggressive": Aggressive(3, 1), "compile": "graph"}),
    "buckets": (sentences, "tokens", {"length_buckets": 2, "ema_decay": 0.9}),
    "momentum": (pair, "none", {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}}),
    "discriminator": (pair, "dynamic", {"objective": Matching(GAN([8], noise=0.3), weight=5.0), "ema_decay": 0.9}),
    "discriminator, recorded": (
        *(batch_norm, "none"),
        {
            "objective": Matching(TotalCorrelation([8], updates=3), weight=5.0, kl=1.0),
            **{"compile": "graph", "clip_norm": 0.1, "learning_rate": Linear(1e-2, 1e-3, 4), "patience": 3},
        },
    ),
}


def run(case, **more):
    make, binarization, options = CASES[case]
    options = {"epochs": EPOCHS, "batch_size": 8, "learning_rate": 0.01, **options, **more}
    double = options.get("precision") == "64-true"
    data = digits(binarization)
    if double:
        data = Data(*(Split({"x": s.tensors["x"].double()}) for s in (data.train, data.validation)))
    programs = [p.double() if double else p for p in make()]
    return fit(*programs, data, seed=5, device="cpu", progress=False, **options)


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_is_uninterrupted(case, tmp_path, monkeypatch):
    whole = run(case, out=tmp_path / "whole")
    assert whole.steps >= 3 * 6
    monkeypatch.setattr(trainer_module, "WINDOW", 4)  # six steps an epoch: a look in the middle of each
    for step in (0, 5, 6, 11, 17):  # before the first, within a window, at an epoch's start, past a window
        if step >= whole.steps:
            continue
        with monkeypatch.context() as patch:
            die_at(patch, step)
            with pytest.raises(Killed):
                run(case, out=tmp_path / "killed", resume=True, checkpoint_every=0.0)
    resumed = run(case, out=tmp_path / "killed", resume=True, checkpoint_every=0.0)
    ours, theirs = state_of(resumed), state_of(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    assert without_seconds(resumed.records) == without_seconds(whole.records)
    assert (resumed.epochs, resumed.steps, resumed.best_epoch) == (whole.epochs, whole.steps, whole.best_epoch)
    assert resumed.stopped == whole.stopped
    for ours, theirs in zip(resumed.networks.parameters(), whole.networks.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    files = [tmp_path / n / "model.safetensors" for n in ("killed", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_checkpoint_in_the_middle_of_an_epoch_is_used(tmp_path, monkeypatch):
    """Otherwise the test above would only see checkpoints between epochs."""
    monkeypatch.setattr(trainer_module, "WINDOW", 4)
    with monkeypatch.context() as patch:
        die_at(patch, 11)
        with pytest.raises(Killed):
            run("plain", out=tmp_path, checkpoint_every=0.0)
    saved = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["progress"]
    assert (saved["epoch"], saved["index"], saved["step"]) == (1, 4, 10)
    done = []
    one_step = Trainer._one_step
    monkeypatch.setattr(Trainer, "_one_step", lambda self, epoch: (done.append(self.at.step), one_step(self, epoch))[1])
    run("plain", out=tmp_path, resume=True)
    assert done == list(range(10, 30))


@pytest.mark.parametrize("step", [0, 8, 17, 29])
def test_interrupt_saves_at_once_and_resumes(step, tmp_path, monkeypatch):
    whole = run("early stopping", out=tmp_path / "whole", patience=EPOCHS)
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        die_at(patch, step, action=lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match=f"step {step + 1}, saved"):
            run("early stopping", out=tmp_path / "stopped", patience=EPOCHS)
    assert signal.getsignal(signal.SIGINT) is handler
    saved = torch.load(tmp_path / "stopped" / "checkpoints" / "last.pt", weights_only=True)["progress"]
    assert saved["step"] == step + 1 and not saved["finished"]
    resumed = run("early stopping", out=tmp_path / "stopped", patience=EPOCHS, resume=True)
    ours, theirs = state_of(resumed), state_of(whole)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert log_of(tmp_path / "stopped") == log_of(tmp_path / "whole")


def test_second_interrupt_is_immediate(monkeypatch):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    die_at(monkeypatch, 3, action=twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        run("plain")
    assert not str(caught.value)  # Python's own, not the one that comes after saving


@pytest.mark.parametrize("case", ["plain", "ema", "early stopping"])
def test_resuming_a_finished_run_changes_nothing(case, tmp_path):
    whole = run(case, out=tmp_path)
    weights, log = (tmp_path / "model.safetensors").read_bytes(), (tmp_path / "metrics.jsonl").read_bytes()
    for _ in range(2):
        again = run(case, out=tmp_path, resume=True)
        assert (tmp_path / "model.safetensors").read_bytes() == weights
        assert (tmp_path / "metrics.jsonl").read_bytes() == log
        ours, theirs = state_of(again), state_of(whole)
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
        assert (again.epochs, again.best_epoch, again.stopped) == (whole.epochs, whole.best_epoch, whole.stopped)
        assert again.seconds == whole.seconds


def overfitting(**more):
    """Validation data from another distribution: the first epochs are the best."""
    x = (torch.rand(48, 6, generator=torch.Generator().manual_seed(1)) < 0.1).float()
    data = Data(Split({"x": x}), Split({"x": 1 - x[:10]}))
    return fit(
        *pair(), data, epochs=20, batch_size=8, learning_rate=0.05, patience=2, device="cpu", progress=False, **more
    )


def test_dying_right_after_early_stopping_keeps_the_best_weights(tmp_path, monkeypatch):
    whole = overfitting(out=tmp_path / "whole")
    assert whole.epochs < 20 and whole.best_epoch == whole.epochs - 2
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_restore_best", lambda self: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            overfitting(out=tmp_path / "killed", checkpoint_every=0.0)
    best = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == best
    resumed = overfitting(out=tmp_path / "killed", resume=True)
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == best
    assert resumed.epochs == whole.epochs and log_of(tmp_path / "killed") == log_of(tmp_path / "whole")


def test_interrupt_in_the_stopping_epoch_finishes(tmp_path, monkeypatch):
    whole = overfitting(out=tmp_path / "whole")
    die_at(monkeypatch, whole.steps - 1, action=lambda: os.kill(os.getpid(), signal.SIGINT))
    stopped = overfitting(out=tmp_path / "stopped")
    files = [tmp_path / n / "model.safetensors" for n in ("stopped", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes() and stopped.stopped == whole.stopped


def test_log_cut_in_the_middle_of_a_line(tmp_path, monkeypatch):
    run("plain", out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        die_at(patch, 14)
        with pytest.raises(Killed):
            run("plain", out=tmp_path / "killed", checkpoint_every=0.0)
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "train/lo')
    run("plain", out=tmp_path / "killed", resume=True)
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")


@pytest.mark.parametrize("checkpoint", (True, False))
def test_what_a_kill_left_half_written_is_removed(tmp_path, monkeypatch, checkpoint):
    """Also where the first checkpoint of all was being written."""
    with monkeypatch.context() as patch:
        die_at(patch, 14)
        with pytest.raises(Killed):
            run("plain", out=tmp_path, checkpoint_every=0.0)
    if not checkpoint:
        for name in ("checkpoints/last.pt", "checkpoints/previous.pt", "metrics.jsonl", "model.safetensors"):
            (tmp_path / name).unlink(missing_ok=True)
    leftovers = [
        tmp_path / "checkpoints" / ".pyro_vae-abcd1234-last.pt",
        tmp_path / ".pyro_vae-abcd1234-model.safetensors",
        tmp_path / ".pyro_vae-abcd1234-metrics.jsonl",
    ]
    others = [tmp_path / name for name in (".settings.personal.json", ".coverage.buildbox.123", ".pyro_vae-x")]
    for file in (*leftovers, *others):
        file.write_bytes(b"half")
    run("plain", out=tmp_path, resume=True)
    assert not any(file.exists() for file in leftovers) and all(file.exists() for file in others)


def test_the_whole_checkpoint_outlives_the_first_save_after_a_damaged_one(tmp_path, monkeypatch):
    """A kill while that save is being written: the one that was gone on from is still there."""
    with monkeypatch.context() as patch:
        die_at(patch, 14)
        with pytest.raises(Killed):
            run("plain", out=tmp_path, checkpoint_every=0.0)
    last, previous = (tmp_path / "checkpoints" / name for name in ("last.pt", "previous.pt"))
    last.unlink()
    last.write_bytes(b"damaged")
    good = previous.read_bytes()

    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(Killed):
            run("plain", out=tmp_path, resume=True, checkpoint_every=0.0)
    assert previous.read_bytes() == good
    run("plain", out=tmp_path, resume=True)


def test_resume_refuses_another_ema_or_model(tmp_path):
    with pytest.raises(pyro_vae.errors.InputError, match="resume needs out"):
        run("plain", resume=True)
    run("plain", out=tmp_path, epochs=1)
    last = tmp_path / "checkpoints" / "last.pt"
    (tmp_path / "checkpoints" / "previous.pt").replace(last)  # the one before the end
    with pytest.raises(pyro_vae.errors.InputError, match=r"ema_decay was None and is 0\.9"):
        run("ema", out=tmp_path, resume=True)
    with pytest.raises(pyro_vae.errors.InputError, match=r"guide\.weight|model\.|has no weight"):
        run("functions", out=tmp_path, resume=True, ema_decay=None, patience=None)


def command(*arguments):
    return [sys.executable, "-m", "pyro_vae", *map(str, arguments)]


@pytest.mark.slow  # the default run kills within the process
def test_sigkill_on_the_command_line(tmp_path):
    """A process that is really killed in the middle, by the commands that a user types."""
    options = "--data.limit 300 --data.binarization threshold --fit.epochs 12 --fit.batch_size 20 --fit.device cpu"
    options += " --fit.checkpoint_every 0 --fit.patience null --model.hidden_dims [10] --guide.hidden_dims [10]"
    quiet = {
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
    }
    train = command("train", "vae", *options.split(), "--out")
    subprocess.run([*train, tmp_path / "whole"], check=True, **quiet)
    killed = subprocess.Popen([*train, tmp_path / "killed"], **quiet)
    log = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.005)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert log.read_text().count("\n") < 12
    pyro_vae.load(tmp_path / "killed")  # readable in between
    refused = subprocess.run([*train, tmp_path / "killed"], **quiet)
    assert refused.returncode == 1 and b"pyro-vae resume" in refused.stderr
    subprocess.run(command("resume", tmp_path / "killed"), check=True, **quiet)
    files = [tmp_path / n / "model.safetensors" for n in ("killed", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")


def test_a_negative_validation_loss_is_taken_up_again():
    """Of a density, which may be above one."""
    saved = {**vars(state_module.Progress()), "epoch": 3, "step": 9, "best": -500.0, "best_epoch": 2}
    assert state_module._progress(saved, "checkpoint", 3).best == -500.0
    for best in (float("nan"), -float("inf"), True, "x"):
        with pytest.raises(pyro_vae.errors.CorruptFileError, match="best"):
            state_module._progress({**saved, "best": best}, "checkpoint", 3)


def test_resuming_a_finished_run_gives_its_discriminator(tmp_path):
    options = {"objective": Matching(GAN([8]), weight=5.0), "out": tmp_path}
    whole = run("plain", **options)
    again = run("plain", resume=True, **options)
    for ours, theirs in zip(again.networks.parameters(), whole.networks.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_progress_bar_names_the_phases(capsys):
    options = {"objective": Matching(GAN([8]), weight=5.0), "epochs": 1, "batch_size": 8}
    fit(*pair(), digits(), device="cpu", **options)
    words = r"loss [\d.]+, reconstruction -[\d.]+, generator [\d.]+, discriminator [\d.]+"
    assert re.search(words, capsys.readouterr().err)


def test_a_discriminator_of_another_size_is_not_resumed(tmp_path):
    options = {"objective": Matching(GAN([8]), weight=5.0)}
    run("plain", out=tmp_path, epochs=1, **options)
    for other, words in (
        (Matching(GAN([9]), weight=5.0), "objective was .*hidden_dims=.8.* and is .*hidden_dims=.9"),
        (ELBO(), "objective was Matching"),
    ):
        with pytest.raises(InputError, match=words):
            run("plain", out=tmp_path, resume=True, **{**options, "objective": other, "epochs": 2})


@pytest.mark.parametrize("damage", ["weights", "optimizer", "all"])
def test_a_checkpoint_with_a_damaged_discriminator_is_refused(damage, tmp_path):
    options = {"objective": Matching(GAN([8]), weight=5.0)}
    run("plain", out=tmp_path, epochs=1, **options)
    path = tmp_path / "checkpoints" / "last.pt"
    (tmp_path / "checkpoints" / "previous.pt").unlink(missing_ok=True)
    state = torch.load(path, weights_only=True)
    state.pop("digest")
    if damage == "weights":
        state["networks"]["weights"].popitem()
    elif damage == "optimizer":
        state["networks"]["optimizer"]["state"] = {0: {"exp_avg": torch.zeros(2)}}
    else:
        state["networks"] = 3
    torch.save(state, path)
    with pytest.raises((CorruptFileError, InputError), match=r"discriminator|networks|exp_avg|saved"):
        run("plain", out=tmp_path, resume=True, **{**options, "epochs": 2})
