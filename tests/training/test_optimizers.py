"""Optimizers and schedulers of the user's own, groups of parameters, and updates that are made of several batches."""

import functools
import logging
import math
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from dying import Killed, die_at
from lightning_fabric import Fabric
from torch import nn
from torch.optim import lr_scheduler

from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE
from pyro_vae.training import Constant, Cosine, Linear, Schedule, Stages, fit
from pyro_vae.training import loop as loop_module
from pyro_vae.training.batches import EpochBatches
from pyro_vae.training.checkpoint import CHECKPOINT
from pyro_vae.training.compiled import Update
from pyro_vae.training.loop import Trainer
from pyro_vae.training.lr_scheduler import find_scheduler, schedulers
from pyro_vae.training.optimizer import find_optimizer, optimizers

GROUPS = {"guide.*": {"lr": 3e-3}, "model.*": {"weight_decay": 0.1}}
SMALL = {"seed": 5, "device": "cpu", "progress": False, "batch_size": 8, "epochs": 4}


def pair():
    torch.manual_seed(3)
    model = VAE((6,), latent_dim=2, hidden_dims=[8])
    return model, GaussianGuide(model, hidden_dims=[8])


def digits():
    x = (torch.rand(53, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    return Data(Split({"x": x[:43]}), Split({"x": x[43:]}))


def state_of(result):
    programs = {"model": result.model, "guide": result.guide}
    return {f"{p}.{k}": v.clone() for p, m in programs.items() for k, v in m.state_dict().items()}


def log_of(result):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in result.records]


def trained(programs=None, data=None, **options):
    return fit(*(programs or pair()), data if data is not None else digits(), **{**SMALL, **options})


class Deterministic(nn.Module):
    """p(x) without latents: x ~ N(weight * |x| + shift, 1); its gradient is known and has no noise."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 0.3))
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(self.weight * x.abs() + self.shift, 1.0).to_event(1), obs=x)


class Nothing(nn.Module):
    def forward(self, x):
        pass


NUMBERS = torch.randn(43, 3, generator=torch.Generator().manual_seed(2))


def by_hand(make_optimizer, epochs=4, k=1, batch_size=8, after_update=None, after_epoch=None):
    """The same training in plain torch, with gradients in closed form: parameters, and the rates before each update."""
    weight, shift = nn.Parameter(torch.full((3,), 0.3)), nn.Parameter(torch.zeros(3))
    optimizer, rates = make_optimizer([weight, shift]), []
    moved = [make(optimizer) if make else None for make in (after_update, after_epoch)]
    batches = EpochBatches(Split({"x": NUMBERS}), batch_size, 5)
    for epoch in range(epochs):
        for first in range(0, len(batches), k):
            rows = [batches.batch(epoch, i)["x"] for i in range(first, min(first + k, len(batches)))]
            x = torch.cat(rows)
            error = (weight * x.abs() + shift - x).detach()
            weight.grad, shift.grad = (error * x.abs()).mean(0), error.mean(0)
            rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            if moved[0] is not None:
                moved[0].step()
        if moved[1] is not None:
            moved[1].step()
    return {"weight": weight.detach(), "shift": shift.detach()}, rates


def fitted(**options):
    return fit(Deterministic(), Nothing(), NUMBERS, **{**SMALL, **options})


def assert_close(result, expected, tolerance=1e-6):
    for name, value in expected.items():
        torch.testing.assert_close(dict(result.model.named_parameters())[name].data, value, rtol=0, atol=tolerance)


# ---------------------------------------------------------------------------- optimizers
OPTIONS = {"Adagrad": {"initial_accumulator_value": 0.1}, "SGD": {"momentum": 0.9, "nesterov": True}}


@pytest.mark.parametrize("name", sorted(set(optimizers()) - {"Muon"}))
@pytest.mark.parametrize("path", ["{}", "torch.optim.{}", "class", "partial", "function"])
def test_every_optimizer_of_torch_moves_as_in_a_loop_of_ones_own(name, path):
    cls, options = getattr(torch.optim, name), OPTIONS.get(name, {})
    expected, _ = by_hand(functools.partial(cls, lr=0.02, **options))
    if path == "partial":
        result = fitted(optimizer=functools.partial(cls, lr=0.02, **options))
    elif path == "function":
        result = fitted(optimizer=lambda parameters: cls(parameters, lr=0.02, **options))
    else:
        said = cls if path == "class" else path.format(name)
        result = fitted(optimizer=said, optimizer_options=options, learning_rate=0.02)
    assert_close(result, expected)
    assert [r["learning_rate"] for r in result.records] == [0.02] * 4
    assert not torch.equal(expected["shift"], torch.zeros(3))


def test_an_instance_is_used_as_it_is():
    model = Deterministic()
    optimizer = torch.optim.RMSprop([{"params": [model.weight], "lr": 0.03}, {"params": [model.shift]}], lr=0.01)
    result = fit(model, Nothing(), NUMBERS, optimizer=optimizer, **SMALL)
    expected, _ = by_hand(lambda p: torch.optim.RMSprop([{"params": p[:1], "lr": 0.03}, {"params": p[1:]}], lr=0.01))
    assert_close(result, expected)
    assert [(r["learning_rate"], r["learning_rate/1"]) for r in result.records] == [(0.03, 0.01)] * 4


@pytest.mark.parametrize("compile", ["graph"])
@pytest.mark.parametrize("more", [{}, {"grad_accumulation": 2}, {"lr_scheduler": "ReduceLROnPlateau"}])
def test_recorded_is_eager(compile, more):
    options = {"optimizer": "RAdam", "learning_rate": 0.01, "param_groups": GROUPS, **more}
    ours, theirs = (state_of(trained(compile=each, **options)) for each in ("off", compile))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("more", [{}, {"lr_scheduler": "ReduceLROnPlateau"}, {"param_groups": GROUPS}])
@pytest.mark.parametrize("name", ["RAdam", "NAdam", "RMSprop", "sgd"])
def test_captured_is_eager(name, more, caplog):
    options = {"optimizer": name, "learning_rate": 0.01, "device": "cuda", **more}
    with caplog.at_level(logging.INFO, logger="pyro_vae"):
        ours, theirs = (state_of(trained(compile=each, **options)) for each in ("off", "graph"))
    assert "whole training step captured" in caplog.text
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-4, msg=name)


def test_what_a_scheduler_sets_beside_rates_ends_captures(caplog):
    """Without a GPU: as if a step had been captured, which repeats the numbers that it was captured with."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=torch.tensor(0.1), momentum=0.9)
    gradient = SimpleNamespace(mode="graph")
    update = Update(Fabric(accelerator="cpu", devices=1), gradient, optimizer, nn.Module())
    update._capturing, update._captures = True, {"shape": None}
    update._options_have_changed()  # what it was captured with
    update._capturing = True
    optimizer.param_groups[0]["lr"].fill_(0.2)
    assert not update._options_have_changed() and update._capturing
    optimizer.param_groups[0]["momentum"] = 0.8
    assert update._options_have_changed() and not update._capturing
    assert "a scheduler sets other numbers of the optimizer" in caplog.text


class Lion(torch.optim.Optimizer):
    """An optimizer of the user's: its second tensor comes with the second step, a count as a plain number."""

    def __init__(self, params, lr=1e-3, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["count"] = state.get("count", 0) + 1
                if "moment" not in state:
                    state["moment"] = torch.zeros_like(p)
                elif "later" not in state:
                    state["later"] = torch.ones_like(p) * 0.5
                state["moment"].lerp_(p.grad, 1 - group["beta"])
                p.add_(state["moment"].sign() * state.get("later", 1.0), alpha=-group["lr"] / state["count"])


RESUMED = {  # optimizer, scheduler, and what else
    **{name: {"optimizer": name, "lr_scheduler": "ReduceLROnPlateau"} for name in set(optimizers()) - {"Muon"}},
    "the user's": {"optimizer": Lion},
    "a function": {"optimizer": lambda parameters: Lion(parameters, lr=0.02)},
    "groups": {"optimizer": "RAdam", "lr_scheduler": "ReduceLROnPlateau", "param_groups": GROUPS},
    "groups by schedule": {"optimizer": "NAdam", "learning_rate": Cosine(0.02, 1e-3, 3), "param_groups": GROUPS},
    "accumulated": {"optimizer": "RAdam", "grad_accumulation": 4, "ema_decay": 0.9},
    "accumulated, recorded": {"grad_accumulation": 3, "compile": "graph", "param_groups": GROUPS},
    "a tensor for a rate": {
        "optimizer": lambda parameters: torch.optim.RAdam(parameters, lr=torch.tensor(0.02)),
        "lr_scheduler": "CosineAnnealingLR",
        "lr_scheduler_options": {"T_max": 4},
    },
    "momentum by the scheduler": {
        "optimizer": "adamw",
        "lr_scheduler": "OneCycleLR",
        "lr_scheduler_options": {"max_lr": 0.05, "total_steps": 24},
        "lr_scheduler_interval": "step",
    },
    "a schedule of schedules": {
        "lr_scheduler": lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[7]
        ),
        "lr_scheduler_interval": "step",
    },
    "a function of the epoch": {
        "optimizer": torch.optim.SGD,
        "lr_scheduler": functools.partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 1 / (1 + epoch)),
    },
}
SCHEDULED = {  # options of each
    "ConstantLR": {"factor": 0.5, "total_iters": 2},
    "CosineAnnealingLR": {"T_max": 3},
    "CosineAnnealingWarmRestarts": {"T_0": 2, "T_mult": 2},
    "CyclicLR": {"base_lr": 1e-3, "max_lr": 0.03, "step_size_up": 3, "mode": "exp_range", "gamma": 0.9},
    "ExponentialLR": {"gamma": 0.7},
    "LinearLR": {"total_iters": 3},
    "MultiStepLR": {"milestones": [1, 3]},
    "OneCycleLR": {"max_lr": 0.05, "total_steps": 24},
    "PolynomialLR": {"total_iters": 3, "power": 2.0},
    "StepLR": {"step_size": 2},
}
RESUMED |= {
    f"{name} by {interval}": {
        "lr_scheduler": name,
        "lr_scheduler_options": options,
        "lr_scheduler_interval": interval,
        "optimizer": "adamw",
    }
    for name, options in SCHEDULED.items()
    for interval in ("epoch", "step")
}


@pytest.mark.parametrize("case", sorted(RESUMED))
def test_killed_and_resumed_is_uninterrupted(case, tmp_path, monkeypatch):
    options = {**RESUMED[case]}
    own_rate = case in ("a function", "a tensor for a rate")
    options |= {} if own_rate or "learning_rate" in options else {"learning_rate": 0.02}
    if options.get("lr_scheduler") == "ReduceLROnPlateau":
        options["lr_scheduler_options"] = {"patience": 0, "factor": 0.5, "threshold": 0.05}
    whole = trained(out=tmp_path / "whole", **options)
    monkeypatch.setattr(loop_module, "WINDOW", 4)  # six steps an epoch
    for step in (0, 5, 6, 11, 17):
        with monkeypatch.context() as patch:
            die_at(patch, step)
            with pytest.raises(Killed):
                trained(out=tmp_path / "killed", resume=True, checkpoint_every=0.0, **options)
    resumed = trained(out=tmp_path / "killed", resume=True, checkpoint_every=0.0, **options)
    ours, theirs = state_of(resumed), state_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert log_of(resumed) == log_of(whole)
    if options.get("lr_scheduler") == "ReduceLROnPlateau":
        assert len({r["learning_rate"] for r in whole.records}) > 1, "the rate never moved"


def test_an_optimizer_of_matrices_alone(tmp_path):
    def matrices():
        programs = pair()
        for program in programs:
            for parameter in program.parameters():
                parameter.requires_grad_(parameter.dim() == 2)
        return programs

    options = {"optimizer": "Muon", "learning_rate": 0.02, "lr_scheduler": "ReduceLROnPlateau"}
    whole = trained(matrices(), **options)
    trained(matrices(), out=tmp_path / "run", **options, epochs=2)
    resumed = trained(matrices(), out=tmp_path / "run", resume=True, **options)
    ours, theirs, begun = state_of(resumed), state_of(whole), pair()[0].state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    moved = {name: not torch.equal(theirs[f"model.{name}"], value) for name, value in begun.items()}
    assert moved == {name: value.dim() == 2 for name, value in begun.items()}


def test_more_epochs_are_what_they_would_have_been_at_once(tmp_path):
    options = {"optimizer": "RAdam", "lr_scheduler": "StepLR", "lr_scheduler_options": {"step_size": 2}}
    options |= {"param_groups": GROUPS, "grad_accumulation": 4, "learning_rate": 0.02}
    whole = trained(epochs=6, **options)
    trained(epochs=3, out=tmp_path / "run", **options)
    further = trained(epochs=6, out=tmp_path / "run", resume=True, **options)
    ours, theirs = state_of(further), state_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and log_of(further) == log_of(whole)


# ---------------------------------------------------------------------------- schedulers
@pytest.mark.parametrize("name", SCHEDULED)
@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_scheduler_moves_as_in_a_loop_of_ones_own(name, interval):
    make = functools.partial(getattr(lr_scheduler, name), **SCHEDULED[name])
    options = {"lr": 0.02, "momentum": 0.9}
    moved = {"after_epoch" if interval == "epoch" else "after_update": make}
    expected, rates = by_hand(functools.partial(torch.optim.SGD, **options), **moved)
    result = fitted(
        optimizer=functools.partial(torch.optim.SGD, **options),
        lr_scheduler=f"torch.optim.lr_scheduler.{name}",
        lr_scheduler_options=SCHEDULED[name],
        lr_scheduler_interval=interval,
    )
    assert_close(result, expected)
    assert [r["learning_rate"] for r in result.records] == pytest.approx(rates[5::6], rel=1e-12)


def test_every_scheduler_that_can_be_named_is_tested_here():
    assert set(SCHEDULED) | {"ReduceLROnPlateau"} == set(schedulers())


@pytest.mark.parametrize("validated", [True, False])
def test_a_plateau_is_one_of_the_validation_loss_or_else_of_training(validated, caplog):
    data = digits() if validated else digits().train
    options = {"patience": 0, "factor": 0.5, "threshold": 0.05}
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        result = trained(
            data=data, lr_scheduler="ReduceLROnPlateau", lr_scheduler_options=options, learning_rate=0.05, epochs=8
        )
    assert any("training loss" in r.message for r in caplog.records) is not validated
    rate, best, rates = 0.05, math.inf, []
    for record in result.records:  # by hand
        rates.append(rate)
        loss = record["validation/loss" if validated else "train/loss"]
        if loss < best * (1 - 0.05):
            best = loss
        else:
            rate *= 0.5
    assert [r["learning_rate"] for r in result.records] == rates and rates[-1] < rates[0]


# ---------------------------------------------------------------------------- groups
def test_groups_have_their_own_options():
    groups = {"model.shift": {"lr": 0.5}, "model.*": {"momentum": 0.9}}
    result = fitted(optimizer="sgd", learning_rate=0.02, param_groups=groups)
    expected, _ = by_hand(
        lambda p: torch.optim.SGD([{"params": p[:1], "momentum": 0.9}, {"params": p[1:], "lr": 0.5}], lr=0.02)
    )
    assert_close(result, expected)
    assert {r["learning_rate"] for r in result.records} == {0.5}  # all is matched: that of the first pattern
    assert {r["learning_rate/model.*"] for r in result.records} == {0.02}


class Triangle(Schedule):
    """Up and down again, by whole epochs."""

    end = 4.0

    def __call__(self, epoch):
        return 0.02 * (1 - abs(min(epoch, 4) - 2) / 2)


@pytest.mark.parametrize(
    "schedule", [Linear(0.0, 0.02, 2), Linear(0.02, 0.001, 3), Cosine(0.02, 0.0, 4), Triangle(), Constant(0.02)]
)
def test_a_schedule_scales_all_groups_alike(schedule):
    result = trained(learning_rate=schedule, param_groups={"guide.*": {"lr": 0.005}})
    for epoch, record in enumerate(result.records):
        assert record["learning_rate"] == schedule(epoch)
        assert record["learning_rate/guide.*"] == pytest.approx(schedule(epoch) * 0.25, rel=1e-12)
    assert Stages([1e-3, 1e-2, 1e-4], [0.25, 0.25, 1]).largest() == 1e-2


def test_a_scheduler_scales_all_groups_alike():
    result = trained(
        learning_rate=0.02,
        param_groups={"guide.*": {"lr": 0.005}},
        lr_scheduler="ExponentialLR",
        lr_scheduler_options={"gamma": 0.5},
    )
    assert [r["learning_rate"] for r in result.records] == [0.02, 0.01, 0.005, 0.0025]
    assert [r["learning_rate/guide.*"] for r in result.records] == [0.005, 0.0025, 0.00125, 0.000625]


def test_a_function_is_given_groups():
    groups = {"model.shift": {"lr": 0.5}}
    result = fitted(optimizer=lambda groups: torch.optim.SGD(groups, lr=0.02), param_groups=groups)
    expected, _ = by_hand(lambda p: torch.optim.SGD([{"params": p[:1]}, {"params": p[1:], "lr": 0.5}], lr=0.02))
    assert_close(result, expected)
    assert {(r["learning_rate"], r["learning_rate/model.shift"]) for r in result.records} == {(0.02, 0.5)}


def test_a_group_that_does_not_move_stays():
    model, guide = pair()
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    trained((model, guide), param_groups={"guide.*": {"lr": 0.0, "weight_decay": 0.0}})
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())


def test_names_are_those_of_plain_functions_too():
    net = nn.Linear(2, 6)

    def model(x):
        scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), scale).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=net(z)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x @ pyro.param("w", torch.full((6, 2), 0.1)), 0.5).to_event(1))

    result = trained((model, guide), param_groups={"*.scale": {"lr": 0.0}}, epochs=2)
    assert torch.equal(result.model.param("scale"), torch.ones(2))
    assert not torch.equal(result.guide.param("w"), torch.full((6, 2), 0.1))


# ---------------------------------------------------------------------------- several batches an update
@pytest.mark.parametrize("compile", ["off", "graph"])
@pytest.mark.parametrize("k", [2, 3, 4, 100])  # six batches an epoch, the last with three data instead of eight
def test_several_batches_are_one_of_all_their_data(k, compile):
    options = {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}, "learning_rate": 0.05}
    result = fitted(grad_accumulation=k, compile=compile, **options)
    expected, rates = by_hand(functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9), k=k)
    assert len(rates) == 4 * math.ceil(6 / k) and result.steps == 24
    assert_close(result, expected)
    joint = fitted(batch_size=8 * k, **options)  # the same data in the same order, as one batch
    assert_close(result, {name: value.data for name, value in joint.model.named_parameters()})


@pytest.mark.parametrize("k", [2, 3])
def test_batches_of_an_iterable_weigh_by_their_data(k, tmp_path):
    sizes = [9, 3, 20, 1, 10]
    batches, rows = list(NUMBERS.split(sizes)), [NUMBERS.split(sizes)[i : i + k] for i in range(0, 5, k)]
    weight, shift = torch.full((3,), 0.3), torch.zeros(3)
    for _ in range(4):
        for x in map(torch.cat, rows):
            error = weight * x.abs() + shift - x
            weight, shift = weight - 0.05 * (error * x.abs()).mean(0), shift - 0.05 * error.mean(0)
    options = {"optimizer": "sgd", "learning_rate": 0.05, "grad_accumulation": k}
    result = fit(Deterministic(), Nothing(), batches, **{**SMALL, "batch_size": None, **options})
    assert_close(result, {"weight": weight, "shift": shift})


def test_clipping_is_of_the_whole_gradient():
    options = {"optimizer": "sgd", "learning_rate": 0.05, "clip_norm": 0.05}
    result, joint = fitted(grad_accumulation=3, **options), fitted(batch_size=24, **options)
    assert_close(result, {name: value.data for name, value in joint.model.named_parameters()})


def test_a_step_that_the_scheduler_counts_is_an_update():
    options = {"lr_scheduler": "StepLR", "lr_scheduler_options": {"step_size": 1, "gamma": 0.5}}
    result = fitted(grad_accumulation=4, lr_scheduler_interval="step", learning_rate=1.0, **options)
    assert [r["learning_rate"] for r in result.records] == [0.5**n for n in (1, 3, 5, 7)]  # two updates an epoch


def test_ctrl_c_within_an_update_saves_after_it(tmp_path, monkeypatch):
    options = {"grad_accumulation": 3, "out": tmp_path / "run"}
    one_step = Trainer._one_step

    def pressing(self, epoch):
        if self.at.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return one_step(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one_step", pressing)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 9, saved"):
            trained(**options)
    resumed, whole = trained(resume=True, **options), trained(grad_accumulation=3)
    ours, theirs = state_of(resumed), state_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and log_of(resumed) == log_of(whole)


# ---------------------------------------------------------------------------- a real kill
SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import importlib.util
spec = importlib.util.spec_from_file_location("cases", {file!r})
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
cases.long_run({run!r})
"""


def long_run(run):
    return trained(
        epochs=80,
        optimizer="RAdam",
        lr_scheduler="ReduceLROnPlateau",
        lr_scheduler_options={"patience": 2, "factor": 0.8},
        param_groups=GROUPS,
        grad_accumulation=4,
        learning_rate=0.02,
        out=run,
        resume=True,
        checkpoint_every=0.0,
    )


@pytest.mark.slow  # signals have tests of the same kind, and kills.py many more
@pytest.mark.parametrize("seed", [1])
def test_killed_by_the_system(seed, tmp_path):
    chance, kills = random.Random(seed), 0
    whole = long_run(tmp_path / "whole")
    code = SCRIPT.format(folder=os.path.dirname(__file__), file=__file__, run=str(tmp_path / "killed"))
    log = tmp_path / "killed" / "metrics.jsonl"
    while kills < 4:
        done = len(log.read_text().splitlines()) if log.exists() else 0
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wanted, until = done + chance.randint(1, 15), time.monotonic() + 120
        while child.poll() is None and time.monotonic() < until:
            if log.exists() and len(log.read_text().splitlines()) >= wanted:
                time.sleep(chance.uniform(0, 0.02))
                child.kill()
                break
            time.sleep(0.001)
        error = child.communicate()[1].decode()
        assert child.returncode == -signal.SIGKILL, f"killed after {done} epochs: {error}"
        kills += 1
    resumed = long_run(tmp_path / "killed")
    ours, theirs = state_of(resumed), state_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and log_of(resumed) == log_of(whole)


# ---------------------------------------------------------------------------- refusals
class Closure(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    def step(self, closure):
        closure()


class Rateless(torch.optim.SGD):
    def __init__(self, params):
        super().__init__(params, lr=0.1)


class Kept(torch.optim.SGD):
    def __init__(self, params, lr, beta=0.1):
        super().__init__(params, lr)
        self.beta = beta


def _without_groups(groups):
    return torch.optim.Adam([p for group in groups for p in group["params"]])


class Odd(Lion):
    def step(self):
        super().step()
        for p in self.param_groups[0]["params"]:
            self.state[p]["set"] = {1, 2}


def _other(parameters):
    return torch.optim.Adam([nn.Parameter(torch.ones(2, 7))])


def _more(parameters):
    return torch.optim.Adam([*parameters, nn.Parameter(torch.ones(2, 7))])


REFUSED = {
    "unknown": ({"optimizer": "RAdm"}, "unknown optimizer 'RAdm'. Did you mean 'RAdam'"),
    "a path elsewhere": ({"optimizer": "os.system"}, "unknown optimizer 'os.system'"),
    "the base": ({"optimizer": "torch.optim.Optimizer"}, "unknown optimizer"),
    "a module of torch": ({"optimizer": "torch.optim.lr_scheduler"}, "unknown optimizer"),
    "a short name in a path": ({"optimizer": "torch.optim.adam"}, "unknown optimizer"),
    "LBFGS": ({"optimizer": "LBFGS"}, "LBFGS evaluates the loss several times a step"),
    "LBFGS, a class": ({"optimizer": torch.optim.LBFGS}, "LBFGS evaluates the loss several times a step"),
    "LBFGS, made": ({"optimizer": lambda p: torch.optim.LBFGS(p)}, "LBFGS evaluates the loss several times"),
    "SparseAdam": ({"optimizer": "torch.optim.SparseAdam"}, "SparseAdam takes sparse gradients"),
    "a number": ({"optimizer": 5}, "optimizer must be a name"),
    "no optimizer": ({"optimizer": lambda p: 5}, "gave int, where a torch.optim.Optimizer is right"),
    "matrices alone": ({"optimizer": "Muon"}, "optimizer 'Muon' refuses its options"),
    "other parameters": ({"optimizer": _other}, "lacks model.decoder.*and .* more, which would not be trained"),
    "more parameters": ({"optimizer": _more}, "1 parameters that are frozen, or neither .* shape .2, 7."),
    "a closure": ({"optimizer": Closure}, "Closure takes no step from the gradients of these parameters alone"),
    "a state of sets": ({"optimizer": Odd}, "of type set, which no checkpoint can hold"),
    "two rates": (
        {"optimizer": functools.partial(torch.optim.Adam, lr=0.1), "learning_rate": 0.2},
        "optimizer Adam: lr is said twice",
    ),
    "a rate for a function": ({"optimizer": lambda p: Lion(p), "learning_rate": 0.1}, "learning_rate is for"),
    "options for a function": (
        {"optimizer": lambda p: Lion(p), "optimizer_options": {"beta": 0.1}},
        "optimizer_options are for",
    ),
    "an option of another type": (
        {"optimizer": "RAdam", "optimizer_options": {"decoupled_weight_decay": "x"}},
        "decoupled_weight_decay must be true or false",
    ),
    "a negative option": ({"optimizer": "RAdam", "optimizer_options": {"eps": -1.0}}, "refuses its options"),
    "schedule and scheduler": (
        {"learning_rate": Linear(0.1, 0.01, 3), "lr_scheduler": "StepLR", "lr_scheduler_options": {"step_size": 1}},
        r"learning_rate is a schedule \(Linear\) and lr_scheduler is given too",
    ),
    "an unknown scheduler": ({"lr_scheduler": "StepL"}, "unknown lr_scheduler 'StepL'. Did you mean 'StepLR'"),
    "a path of code": ({"lr_scheduler": "os.system"}, "unknown lr_scheduler"),
    "a scheduler of functions": ({"lr_scheduler": "LambdaLR"}, "LambdaLR is made of functions"),
    "a scheduler that lacks options": ({"lr_scheduler": "StepLR"}, "lr_scheduler StepLR refuses its options"),
    "options without a scheduler": ({"lr_scheduler_options": {"gamma": 0.1}}, "and there is none"),
    "an interval without a scheduler": ({"lr_scheduler_interval": "step"}, "and there is none"),
    "an odd interval": (
        {"lr_scheduler": "ExponentialLR", "lr_scheduler_options": {"gamma": 0.9}, "lr_scheduler_interval": "batch"},
        "unknown lr_scheduler_interval 'batch'",
    ),
    "a plateau at every step": (
        {"lr_scheduler": "ReduceLROnPlateau", "lr_scheduler_interval": "step"},
        "looks at the loss of an epoch",
    ),
    "a scheduler of another optimizer": (
        {"lr_scheduler": lambda o: lr_scheduler.ExponentialLR(torch.optim.SGD([nn.Parameter(torch.ones(1))]), 0.9)},
        "gave a scheduler of another optimizer",
    ),
    "no lr": ({"optimizer": Rateless}, "takes no lr: give a function of parameters"),
    "no scheduler": ({"lr_scheduler": lambda o: 5}, "gave int, where a scheduler"),
    "one that ends before": (
        {
            "lr_scheduler": "OneCycleLR",
            "lr_scheduler_options": {"max_lr": 0.1, "total_steps": 3},
            "lr_scheduler_interval": "step",
        },
        "lr_scheduler OneCycleLR: .*3",
    ),
    "a pattern of nothing": ({"param_groups": {"gide.*": {"lr": 0.1}}}, "unknown pattern in param_groups 'gide"),
    "a pattern of another's": (
        {"param_groups": {"guide.*": {"lr": 0.1}, "guide.encoder.*": {"lr": 0.2}}},
        "'guide.encoder.*' matches only what patterns before it match",
    ),
    "a pattern of no letters": ({"param_groups": {"": {"lr": 0.1}}}, "unknown pattern in param_groups ''."),
    "an option of no optimizer": ({"param_groups": {"guide.*": {"lrr": 0.1}}}, "unknown option in param_groups"),
    "an option that is read once": (
        {"optimizer": "Adagrad", "param_groups": {"guide.*": {"initial_accumulator_value": 1.0}}},
        "unknown option in param_groups 'guide.*' 'initial_accumulator_value'",
    ),
    "an option that no group has": (
        {"optimizer": Kept, "param_groups": {"guide.*": {"beta": 0.5}}},
        "unknown option in param_groups 'guide.*' 'beta'",
    ),
    "an option of a function's": (
        {"optimizer": lambda groups: torch.optim.Adam(groups), "param_groups": {"guide.*": {"lrr": 0.5}}},
        "unknown option in param_groups 'guide.*' 'lrr'",
    ),
    "a function that drops groups": (
        {"optimizer": _without_groups, "param_groups": {"guide.*": {"lr": 0.5}}},
        "has not these options: it is given a list of groups",
    ),
    "an option of all": ({"param_groups": {"guide.*": {"fused": False}}}, "unknown option in param_groups"),
    "parameters of a group": ({"param_groups": {"guide.*": {"params": 1}}}, "unknown option in param_groups"),
    "a negative rate": ({"param_groups": {"guide.*": {"lr": -0.1}}}, "refuses its options"),
    "a rate that is a text": ({"param_groups": {"guide.*": {"lr": "x"}}}, "lr is a number"),
    "betas of a group": ({"param_groups": {"guide.*": {"betas": [5.0, 0.1]}}}, "refuses its options"),
    "a rate of nothing": (
        {"learning_rate": 0.0, "param_groups": {"guide.*": {"lr": 0.1}}},
        "a largest learning_rate of 0",
    ),
    "no batches": ({"grad_accumulation": 0}, "grad_accumulation must be a positive integer"),
    "half a batch": ({"grad_accumulation": 1.5}, "grad_accumulation must be a positive integer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_a_sentence(case):
    options, words = REFUSED[case]
    with pytest.raises(InputError, match=words) as caught:
        trained(**options)
    assert "\n" not in str(caught.value)


def test_groups_of_an_instance_are_its_own():
    model = Deterministic()
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(InputError, match="has groups already"):
        fit(model, Nothing(), NUMBERS, optimizer=optimizer, param_groups={"model.*": {"lr": 0.1}}, **SMALL)


CHANGED = {
    "optimizer": ({"optimizer": "NAdam"}, "optimizer was 'RAdam' and is 'NAdam'"),
    "a group's rate": ({"param_groups": {"guide.*": {"lr": 0.1}}}, "param_groups was"),
    "no groups": ({"param_groups": None}, "param_groups was"),
    "scheduler": ({"lr_scheduler": "StepLR", "lr_scheduler_options": {"step_size": 3}}, "lr_scheduler was"),
    "its options": ({"lr_scheduler_options": {"gamma": 0.8}}, "lr_scheduler was"),
    "its interval": ({"lr_scheduler_interval": "step"}, "lr_scheduler_interval was 'epoch' and is 'step'"),
    "batches of an update": ({"grad_accumulation": 3}, "grad_accumulation was 2 and is 3"),
    "one batch": ({"grad_accumulation": 1}, "grad_accumulation was 2 and is not there"),
}
BEGUN = {
    "optimizer": "RAdam",
    "param_groups": {"guide.*": {"lr": 0.2}},
    "lr_scheduler": "ExponentialLR",
    "lr_scheduler_options": {"gamma": 0.9},
    "grad_accumulation": 2,
}


@pytest.mark.parametrize("case", CHANGED)
def test_what_is_changed_is_refused_by_its_name(case, tmp_path):
    change, words = CHANGED[case]
    trained(out=tmp_path / "run", **{**BEGUN, "epochs": 2})
    with pytest.raises(InputError, match=words):
        trained(out=tmp_path / "run", resume=True, **{**BEGUN, **change})


@pytest.mark.parametrize(
    "said", ["RAdam", "torch.optim.RAdam", torch.optim.RAdam, functools.partial(torch.optim.RAdam)]
)
def test_however_it_is_said_it_is_the_same_experiment(said, tmp_path):
    trained(out=tmp_path / "run", **{**BEGUN, "epochs": 2})
    trained(out=tmp_path / "run", resume=True, **{**BEGUN, "optimizer": said})


def test_a_function_that_gives_something_else_is_another_experiment(tmp_path):
    trained(out=tmp_path / "run", optimizer=lambda p: Lion(p, lr=0.1), epochs=2)
    with pytest.raises(InputError, match="optimizer's groups was"):
        trained(out=tmp_path / "run", optimizer=lambda p: Lion(p, lr=0.2), resume=True)


# ---------------------------------------------------------------------------- files that say what is not so
def _step(state):
    return state["optimizer"]["state"][0]


HOSTILE = {  # what is put into a checkpoint of RAdam with a plateau; what must be said
    "a moment of another size": (lambda s: _step(s).update(exp_avg=torch.zeros(2)), "exp_avg"),
    "a huge moment": (lambda s: _step(s).update(exp_avg_sq=torch.zeros(10_000)), "exp_avg_sq"),
    "a moment of integers": (lambda s: _step(s).update(exp_avg=_step(s)["exp_avg"].long()), "exp_avg"),
    "a count of several": (lambda s: _step(s).update(step=torch.zeros(2)), "step"),
    "another moment": (lambda s: _step(s).update(evil=torch.zeros(2)), "evil"),
    "no moment": (lambda s: _step(s).pop("exp_avg"), "exp_avg"),
    "a parameter that is not there": (lambda s: s["optimizer"]["state"].update({99: {}}), "other parameters"),
    "other groups": (lambda s: s["optimizer"]["param_groups"].pop(), "other groups"),
    "a rate that is a text": (lambda s: s["optimizer"]["param_groups"][0].update(lr="x"), "lr"),
    "a rate that is none": (lambda s: s["optimizer"]["param_groups"][0].update(lr=math.nan), "lr"),
    "no rate": (lambda s: s["optimizer"]["param_groups"][0].pop("lr"), "lr"),
    "betas of three": (lambda s: s["optimizer"]["param_groups"][0].update(betas=[0.1] * 3), "betas"),
    "no scheduler": (lambda s: s.update(lr_scheduler=None), "without lr_scheduler"),
    "a method of the scheduler": (lambda s: s["lr_scheduler"].update(step=1), "other entries"),
    "a mode of it": (lambda s: s["lr_scheduler"].update(mode="evil"), "mode"),
    "a huge count": (lambda s: s["lr_scheduler"].update(last_epoch=10**400), "last_epoch"),
    "a text for a number": (lambda s: s["lr_scheduler"].update(best="x"), "best"),
    "a list of another length": (lambda s: s["lr_scheduler"].update(min_lrs=[0.0]), "min_lrs"),
    "within an update": (lambda s: s["progress"].update(index=1, sums=[0.0] * len(s["names"])), "within an update"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_checkpoint_that_says_what_is_not_so(case, tmp_path):
    change, words = HOSTILE[case]
    options = {"optimizer": "RAdam", "lr_scheduler": "ReduceLROnPlateau", "param_groups": GROUPS}
    options |= {"out": tmp_path / "run", "grad_accumulation": 2}
    trained(epochs=2, **options)
    file = tmp_path / "run" / CHECKPOINT
    state = torch.load(file, weights_only=True)
    change(state), state.pop("digest")
    torch.save(state, file)
    (file.parent / "previous.pt").unlink(missing_ok=True)
    with pytest.raises(InputError, match=words):
        trained(resume=True, **options)


def test_options_of_a_group_that_are_no_numbers_are_not_the_files(tmp_path):
    options = {"optimizer": "RAdam", "lr_scheduler": "ReduceLROnPlateau", "out": tmp_path / "run"}
    trained(epochs=2, **options)
    file = tmp_path / "run" / CHECKPOINT
    state = torch.load(file, weights_only=True)
    state["optimizer"]["param_groups"][0] |= {"maximize": True, "foreach": True, "evil": 1, "capturable": True}
    state.pop("digest")
    torch.save(state, file)
    whole = trained(**{**options, "out": None})
    resumed = trained(resume=True, **options)
    ours, theirs = state_of(resumed), state_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_nothing_is_found_by_a_path_but_optimizers_and_schedulers():
    for cls in optimizers().values():
        assert issubclass(cls, torch.optim.Optimizer) and cls.__module__.startswith("torch.optim")
    for cls in schedulers().values():
        assert issubclass(cls, lr_scheduler.LRScheduler) and cls.__module__ == "torch.optim.lr_scheduler"
    for name in ("torch.load", "torch.optim.optimizer.Optimizer", "torch.optim.os", "", ".", "torch.optim."):
        for find in (find_optimizer, find_scheduler):
            with pytest.raises(InputError, match="unknown"):
                find(name)
