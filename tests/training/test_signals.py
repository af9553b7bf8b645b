"""SIGTERM and SIGUSR1 save and stop like Ctrl-C: in Python, on the command line, and of several processes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch

from pyro_vae.cli import main
from pyro_vae.errors import Interrupted
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE
from pyro_vae.training import fit
from pyro_vae.training.loop import Trainer
from pyro_vae.training.signals import STOPPING, Interrupts

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 138}


def run(**options):
    torch.manual_seed(3)
    model = VAE((6,), latent_dim=2, hidden_dims=[8])
    guide = GaussianGuide(model, hidden_dims=[8])
    x = (torch.rand(43, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    options = {"epochs": 3, "batch_size": 8, "compile": "off", "device": "cpu", "progress": False, **options}
    return fit(model, guide, x, seed=5, **options)


def same(one, two):
    ours, theirs = ([*r.model.state_dict().values(), *r.guide.state_dict().values()] for r in (one, two))
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def at_step(monkeypatch, step, action):
    one_step = Trainer._one_step

    def acting(self, epoch):
        if self.at.step == step:
            action()
        return one_step(self, epoch)

    monkeypatch.setattr(Trainer, "_one_step", acting)


def sent(*names):
    return lambda: [(os.kill(os.getpid(), getattr(signal, name)), time.sleep(0.01)) for name in names]


@pytest.mark.parametrize("step", (0, 8, 17))
@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_saves_and_stops(name, step, tmp_path, monkeypatch):
    before = {number: signal.getsignal(number) for number in STOPPING}
    with monkeypatch.context() as patch:
        at_step(patch, step, sent(name))
        with pytest.raises(KeyboardInterrupt, match=rf"^stopped at step {step + 1}, saved \({name}\)$") as caught:
            run(out=tmp_path)
    assert isinstance(caught.value, Interrupted) and caught.value.number == getattr(signal, name)
    assert {number: signal.getsignal(number) for number in STOPPING} == before
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["progress"]
    assert state["step"] == step + 1 and not state["finished"]
    assert same(run(out=tmp_path, resume=True), run())


def test_handlers_of_the_user_are_put_back(monkeypatch):
    def own(number, frame):
        raise AssertionError("not while training")

    old = {number: signal.signal(number, own) for number in STOPPING}
    try:
        at_step(monkeypatch, 2, sent("SIGUSR1"))
        with pytest.raises(KeyboardInterrupt, match="SIGUSR1"):
            run()
        assert all(signal.getsignal(number) is own for number in STOPPING)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def test_schedulers_send_more_than_one(tmp_path, monkeypatch):
    """The first is named; neither of the others ends the process before it has saved."""
    at_step(monkeypatch, 3, sent("SIGUSR1", "SIGTERM", "SIGTERM"))
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step 4, saved \(SIGUSR1\)"):
        run(out=tmp_path)


def test_a_second_ctrl_c_interrupts_at_once(monkeypatch):
    at_step(monkeypatch, 3, sent("SIGTERM", "SIGINT", "SIGINT"))
    with pytest.raises(KeyboardInterrupt) as caught:
        run()
    assert not isinstance(caught.value, Interrupted)


def test_another_thread_trains_without_signals(monkeypatch):
    found = []
    thread = threading.Thread(target=lambda: found.append(run(epochs=1)))
    thread.start()
    thread.join()
    assert found[0].epochs == 1
    with Interrupts() as interrupts:
        assert not interrupts.pressed
        sent("SIGTERM")()
        assert interrupts.pressed and interrupts.number == signal.SIGTERM


@pytest.mark.parametrize("command", ("train", "resume"))
@pytest.mark.parametrize("name", SIGNALS)
def test_exit_status(command, name, tmp_path, monkeypatch, caplog):
    """In this process, for speed; below in one of its own."""
    options = "--data.limit 100 --data.binarization threshold --fit.epochs 4 --fit.batch_size 20 --fit.device cpu"
    options += " --fit.patience null --model.hidden_dims [8] --guide.hidden_dims [8] --out"
    out = tmp_path / "run"
    train = ["train", "vae", *options.split(), str(out)]
    for step, arguments in (7, train), (13, ["resume", str(out)]):
        if arguments[0] != command and command == "train":
            break
        number = name if arguments[0] == command else "SIGINT"
        with monkeypatch.context() as patch:
            at_step(patch, step, sent(number))
            with pytest.raises(SystemExit) as caught:
                main(arguments)
        assert caught.value.code == SIGNALS[number]
        assert f"stopped at step {step + 1}, saved ({number}); go on with: pyro-vae resume {out}" in caplog.text
    assert main(["resume", str(out)]) == 0


def quiet():
    return {"env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}


def log_of(path):
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNALS)
def test_a_real_process(name, tmp_path):
    """``kill -TERM``, then ``pyro-vae resume``: the weights of a run that nobody stopped, bit for bit."""
    options = "--data.limit 300 --data.binarization threshold --fit.epochs 30 --fit.batch_size 20 --fit.device cpu"
    options += " --fit.logger csv --fit.patience null --model.hidden_dims [10] --guide.hidden_dims [10] --out"
    train = [sys.executable, "-m", "pyro_vae", "train", "vae", *options.split()]
    subprocess.run([*train, tmp_path / "whole"], check=True, **quiet())
    stopped = subprocess.Popen([*train, tmp_path / "stopped"], **quiet())
    log = tmp_path / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline and stopped.poll() is None
        time.sleep(0.005)
    stopped.send_signal(getattr(signal, name))
    _, error = stopped.communicate(timeout=60)
    assert stopped.returncode == SIGNALS[name], error
    assert f"saved ({name}); go on with: pyro-vae resume".encode() in error and b"Traceback" not in error
    assert log.read_text().count("\n") < 30
    resume = [sys.executable, "-m", "pyro_vae", "resume", tmp_path / "stopped"]
    subprocess.run(resume, check=True, **quiet())
    files = [tmp_path / n / "model.safetensors" for n in ("stopped", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert log_of(tmp_path / "stopped") == log_of(tmp_path / "whole")
    rows = (tmp_path / "stopped" / "logs" / "csv" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 31


READING = textwrap.dedent(
    """
    import sys
    import torch
    from pyro_vae.guides import GaussianGuide
    from pyro_vae.models import VAE
    from pyro_vae.training import fit

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return 200

        def __getitem__(self, place):
            return (torch.rand(6, generator=torch.Generator().manual_seed(place)) < 0.4).float()

    torch.manual_seed(3)
    model = VAE((6,), latent_dim=2, hidden_dims=[8])
    guide = GaussianGuide(model, hidden_dims=[8])
    options = {"device": "cpu", "compile": "off", "progress": False, "checkpoint_every": 1e9}
    fit(model, guide, Images(), epochs=9999, batch_size=20, num_workers=2, out=sys.argv[1], **options)
    """
)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_to_all_processes_of_a_job(name, tmp_path):
    """As schedulers and terminals send it: to those that read data as well, which are needed until all is saved."""
    (tmp_path / "script.py").write_text(READING)
    command = [sys.executable, tmp_path / "script.py", tmp_path / "run"]
    started = subprocess.Popen(command, start_new_session=True, **quiet())
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.005)
    os.killpg(started.pid, getattr(signal, name))
    _, error = started.communicate(timeout=60)
    assert b"Interrupted: stopped at step" in error and f"saved ({name})".encode() in error, error
    with pytest.raises(ProcessLookupError):
        os.killpg(started.pid, 0)  # none is left
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["progress"]["step"] >= 20


TWO = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    import torch
    from pyro_vae.guides import GaussianGuide
    from pyro_vae.models import VAE
    from pyro_vae.training import fit, loop

    loop.WINDOW = 2
    out, what = Path(sys.argv[1]), sys.argv[2]
    one_step = loop.Trainer._one_step

    def sending(self, epoch):
        if what == "signal" and self.at.step == 5 and self.fabric.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)  # one process only
        return one_step(self, epoch)

    loop.Trainer._one_step = sending

    class Own:
        steps = 0

        def on_step(self, state):
            torch.rand(7)  # the other process does not draw these
            self.steps += 1
            assert len(state.terms["loss"]) <= 2
            if what == "stop" and state.step == 5:
                state.stop("enough")
            if what == "error" and state.step == 5:
                raise LookupError("no such luck")

        def state_dict(self):
            return {"steps": self.steps}

        def load_state_dict(self, state):
            self.steps = state["steps"]

    torch.manual_seed(3)
    model = VAE((6,), latent_dim=2, hidden_dims=[8])
    guide = GaussianGuide(model, hidden_dims=[8])
    x = (torch.rand(32, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    result = fit(
        model, guide, x, epochs=3, batch_size=8, seed=5, device="cpu", precision="64-true", num_devices=2,
        progress=False, out=out, resume=(out / "checkpoints").exists(), callbacks=[] if what == "whole" else [Own()],
        logger="csv",
    )
    rank = os.environ.get("LOCAL_RANK", "0")
    print(f"rank {rank}: {result.stopped} after step {result.steps}")
    """
)


def two(script, *arguments):
    from test_ddp import launch

    return launch(script, *arguments)


@pytest.mark.slow
def test_two_processes(tmp_path, monkeypatch):
    """They stop together; the first alone calls and logs, and what callbacks draw there changes no number."""
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    script = tmp_path / "script.py"
    script.write_text(TWO)
    whole = two(script, tmp_path / "whole", "whole")
    assert whole.returncode == 0, whole.stderr
    look = two(script, tmp_path / "look", "look")
    assert look.returncode == 0, look.stderr
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "look")]
    assert weights[0] == weights[1]
    saved = torch.load(tmp_path / "look" / "checkpoints" / "last.pt", weights_only=True)
    assert saved["callbacks"] == [{"name": "Own", "state": {"steps": 12}}]
    assert len((tmp_path / "look" / "logs" / "csv" / "metrics.csv").read_text().splitlines()) == 4

    done = two(script, tmp_path / "signal", "signal")
    assert done.returncode != 0 and "stopped at step 6, saved (SIGTERM)" in done.stderr
    done = two(script, tmp_path / "stop", "stop")
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert f"rank {rank}: enough after step 6" in done.stdout
    done = two(script, tmp_path / "error", "error")
    assert done.returncode != 0 and "LookupError: no such luck" in done.stderr
    for name in ("signal", "error"):
        saved = torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)
        assert saved["progress"]["step"] == 6
        again = two(script, tmp_path / name, "whole")
        assert again.returncode == 0, again.stderr
        assert (tmp_path / name / "model.safetensors").read_bytes() == weights[0]
