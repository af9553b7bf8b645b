"""Weights of runs trained from Python, loaded into fresh programs: modules and plain functions, in any combination."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

import pyro_vae

X = torch.randn(30, 3, generator=torch.Generator().manual_seed(1))


def model_function():
    decoder = nn.Linear(2, 3)

    def model(x=None, num_samples=1):
        pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        noise = pyro.param("noise", lambda: torch.rand(3) + 0.5, constraint=dist.constraints.positive)
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(decoder(z), noise).to_event(1), obs=x)

    return model


class ModelModule(nn.Module):
    """The same as a module, with ``pyro.param``."""

    def __init__(self):
        super().__init__()
        self.function = model_function()

    def forward(self, x=None, num_samples=1):
        return self.function(x, num_samples)


class ModelPyroModule(PyroModule):
    """The same in the style of ``pyro.nn``."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2, 3)
        self.noise = PyroParam(torch.rand(3) + 0.5, constraint=dist.constraints.positive)
        self.w = PyroSample(dist.Normal(0.0, 1.0).expand([2]).to_event(1))

    def forward(self, x=None, num_samples=1):
        _ = self.w
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), self.noise).to_event(1), obs=x)


def guide_function():
    encoder = nn.Linear(3, 2)

    def guide(x):
        loc = pyro.param("loc", lambda: torch.randn(2))
        pyro.sample("w", dist.Normal(loc, 0.1).to_event(1))
        spread = pyro.param("spread", lambda: torch.rand(2) + 0.5, constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), spread).to_event(1))

    return guide


class GuideModule(nn.Module):
    """The same as a module, with ``pyro.param``."""

    def __init__(self):
        super().__init__()
        self.function = guide_function()

    def forward(self, x):
        self.function(x)


@pytest.mark.parametrize("evaluated", [False, True], ids=["fresh", "evaluated before"])
@pytest.mark.parametrize("guide", [guide_function, GuideModule])
@pytest.mark.parametrize("model", [model_function, ModelModule, ModelPyroModule])
def test_the_numbers_of_a_run_are_those_of_its_weights(model, guide, evaluated, tmp_path):
    how = {"epochs": 2, "batch_size": 10, "learning_rate": 0.1, "device": "cpu", "progress": False}
    result = pyro_vae.fit(model(), guide(), X, out=tmp_path / "run", **how)
    right = pyro_vae.elbo(result.model, result.guide, X)
    fresh = model(), guide()
    if evaluated:
        assert pyro_vae.elbo(*fresh, X).mean != right.mean
    loaded = pyro_vae.load(tmp_path / "run", model=fresh[0], guide=fresh[1])
    found = pyro_vae.elbo(*loaded, X)
    torch.testing.assert_close(found.per_datum, right.per_datum, rtol=1e-6, atol=1e-6)
    assert found.kl["w"].sum().item() == pytest.approx(right.kl["w"].sum().item(), rel=1e-6)
