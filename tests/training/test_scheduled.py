"""Schedules of buffers: set before every step however it is run, resumed, recorded, and refused with a reason."""

import logging

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import fit
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.training import Cosine, Linear
from pyro_vae.training.loop import Trainer

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("count", torch.tensor(0))
        self.inner = nn.Module()
        self.inner.register_buffer("strength", torch.tensor(1.0))

    def forward(self, x=None, *, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.mean, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.inner.strength * z @ self.weight, 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("temperature", torch.tensor(1.0))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x, self.temperature * self.scale.exp()).to_event(1))


def run(schedules, **options):
    torch.manual_seed(2)
    options = {"epochs": 4, "batch_size": 10, "device": "cpu", "progress": False, "compile": "off", **options}
    return fit(Model(), Guide(), Split({"x": X}), schedules=schedules, **options)


SCHEDULES = {"guide.temperature": Cosine(1.0, 0.1, 3), "model.inner.strength": Linear(0.0, 2.0, 4)}


def weights(result):
    return [p.detach().clone() for p in (*result.model.parameters(), *result.guide.parameters())]


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
@pytest.mark.parametrize("compile", ["off", "graph"])
def test_buffers_are_set_before_every_step(monkeypatch, compile, precision):
    seen, one_step = [], Trainer._one_step

    def watched(self, epoch):
        row = one_step(self, epoch)
        seen.append((epoch, self.guide.program.temperature.item(), self.model.program.inner.strength.item()))
        return row

    monkeypatch.setattr(Trainer, "_one_step", watched)
    result = run(SCHEDULES, compile=compile, precision=precision)
    assert [epoch for epoch, _, _ in seen] == [i / 4 for i in range(16)]
    for epoch, temperature, strength in seen:
        assert temperature == pytest.approx(SCHEDULES["guide.temperature"](epoch), rel=1e-6)
        assert strength == pytest.approx(SCHEDULES["model.inner.strength"](epoch), rel=1e-6)
    told = [record["guide.temperature"] for record in result.records]
    assert told == pytest.approx([SCHEDULES["guide.temperature"](epoch) for epoch in range(4)])


def test_they_act_on_recorded_steps():
    """The recorded training is the eager one, and differs from one with the buffers held."""
    eager, recorded = weights(run(SCHEDULES)), weights(run(SCHEDULES, compile="graph"))
    held = weights(run({"guide.temperature": 1.0, "model.inner.strength": 0.0}, compile="graph"))
    torch.testing.assert_close(recorded, eager, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(held[0], eager[0], atol=1e-3)


def test_they_act_on_compiled_steps():
    torch.testing.assert_close(weights(run(SCHEDULES, compile="full")), weights(run(SCHEDULES)), rtol=1e-4, atol=1e-5)


def test_training_resumes_exactly(tmp_path, monkeypatch):
    options = {"checkpoint_every": 0.0}
    whole = run(SCHEDULES, out=tmp_path / "whole", **options)
    one_step = Trainer._one_step

    def cut(self, epoch):
        if self.at.step == 9:
            raise RuntimeError("cut")
        return one_step(self, epoch)

    monkeypatch.setattr(Trainer, "_one_step", cut)
    with pytest.raises(RuntimeError, match="cut"):
        run(SCHEDULES, out=tmp_path / "cut", **options)
    monkeypatch.setattr(Trainer, "_one_step", one_step)
    resumed = run(SCHEDULES, out=tmp_path / "cut", resume=True, **options)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert resumed.guide.temperature == whole.guide.temperature
    assert resumed.guide.temperature.item() == pytest.approx(SCHEDULES["guide.temperature"](3.75))


def test_numbers_are_constant_schedules():
    assert run({"guide.temperature": 0.25}).guide.temperature.item() == 0.25


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("guide.temperatur", r"unknown buffer in schedules 'guide.temperatur'. Did you mean 'guide.temperature'\?"),
        ("temperature", "Did you mean 'guide.temperature'"),
        ("model.strength", "Did you mean 'model.inner.strength'"),
        ("guide.scale", "'guide.scale' is a parameter, which the optimizer moves"),
        ("model.mean", r"buffer 'model.mean' is torch.float32 of shape \(3,\); it must be 0-dimensional"),
        ("model.count", "buffer 'model.count' is torch.int64 of shape"),
    ],
)
def test_names_that_cannot_be_scheduled(name, message):
    with pytest.raises(InputError, match=message):
        run({name: 1.0})


def test_programs_without_such_buffers():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=x)

    with pytest.raises(InputError, match="model and guide have no buffer that a schedule can set"):
        fit(model, lambda x: None, X, schedules={"guide.temperature": 1.0}, device="cpu", progress=False)


def test_schedules_longer_than_training_are_said(caplog):
    with caplog.at_level(logging.WARNING):
        run({"guide.temperature": Linear(1.0, 0.0, 8)}, epochs=2)
    assert "guide.temperature reaches its final value at epoch 8, after training ends (2 epochs): it ends at 0.75" in (
        caplog.text
    )
