"""What a program uses is trained, saved and put into evaluation mode, however it comes by it."""

import copy
import dataclasses
import functools
import types

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_vae import fit, load
from pyro_vae.errors import InputError
from pyro_vae.evaluation import log_likelihood
from pyro_vae.programs.program import as_programs, prime

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(2))


@dataclasses.dataclass
class Nets:
    decoder: nn.Module
    scale: nn.Parameter


class Slotted:
    __slots__ = ("net",)

    def __init__(self, net):
        self.net = net


class Registry(dict):
    """A mapping of one's own."""


def _itself(net):
    return net


def decoder():
    return nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 6))


def holders():
    """Objects that hold a decoder, each with a way to it."""
    return {
        "dataclass": (Nets(decoder(), nn.Parameter(torch.ones(6))), lambda h: h.decoder),
        "namespace": (types.SimpleNamespace(inner=types.SimpleNamespace(net=decoder())), lambda h: h.inner.net),
        "slots": (Slotted(decoder()), lambda h: h.net),
        "registry": (Registry(a=[decoder()]), lambda h: h["a"][0]),
        "function attribute": (types.SimpleNamespace(make=functools.partial(_itself, decoder())), lambda h: h.make()),
    }


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


def model_with(holder, reach):
    def model(x=None, num_samples=1):
        scale = getattr(holder, "scale", torch.ones(6))
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(reach(holder)(z), scale.exp()).to_event(1), obs=x)

    return model


@pytest.mark.parametrize("how", list(holders()))
def test_modules_and_parameters_behind_objects_are_trained_saved_and_evaluated(how, tmp_path):
    holder, reach = holders()[how]
    before = copy.deepcopy(reach(holder))
    result = fit(model_with(holder, reach), guide, X, epochs=2, progress=False, device="cpu", out=tmp_path / "run")
    after = reach(holder)
    assert all(not torch.equal(p, q) for p, q in zip(before.parameters(), after.parameters(), strict=True))
    if how == "dataclass":
        assert not torch.equal(holder.scale, torch.ones(6))
    assert not any(module.training for module in after.modules())
    score = log_likelihood(result.model, result.guide, X, num_particles=20).mean
    other, reach = holders()[how]
    model = model_with(other, reach)
    loaded = load(tmp_path / "run", model=model, guide=guide)
    assert log_likelihood(*loaded, X, num_particles=20).mean == score
    assert log_likelihood(result.model, result.guide, X, num_particles=20).mean == score  # twice the same: no dropout


class Model(nn.Module):
    """A module that reaches a part of itself through a list, and says pyro.param and pyro.module."""

    def __init__(self):
        super().__init__()
        self.dec, self.nets = nn.Linear(2, 6), [nn.Linear(2, 2)]

    def forward(self, x=None, num_samples=1):
        pyro.module("decoder", self.dec)
        sd = pyro.param("sd", torch.tensor(5.0), constraint=dist.constraints.positive)
        shift = pyro.param("shift", lambda: torch.zeros(6))
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.dec(self.nets[0](z)) + shift, sd).to_event(1), obs=x)


class PyroModel(PyroModule):
    forward = Model.forward

    def __init__(self):
        super().__init__()
        self.dec, self.nets = nn.Linear(2, 6), [nn.Linear(2, 2)]


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(6, 4)

    def forward(self, x):
        pyro.module("encoder", self.enc)
        loc, raw = self.enc(x).chunk(2, -1)
        raw = raw + 0 * pyro.param("sd", torch.tensor(5.0), constraint=dist.constraints.positive)  # the model's
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw) + 1e-2).to_event(1))


@pytest.mark.parametrize("compile", ["off", "graph"])
@pytest.mark.parametrize("kind", [Model, PyroModel])
def test_statements_inside_a_module_are_its_own_parameters(kind, compile, tmp_path, caplog):
    torch.manual_seed(0)
    model, inference = kind(), Guide()
    options = {"batch_size": 60, "learning_rate": 0.05, "progress": False, "device": "cpu", "compile": compile}
    result = fit(model, inference, X, epochs=60, out=tmp_path / "run", **options)
    assert "cannot be recorded" not in caplog.text
    assert result.model is model and len(pyro.get_param_store()) == 0
    names = {name for name, _ in model.named_parameters()}
    assert {"pyro_params.sd", "pyro_params.shift", "also_used.modules_used.nets_0.weight"} <= names
    assert model.pyro_params is inference.pyro_params
    assert model.pyro_params.value("sd").item() < 3 and model.pyro_params.shift.any()
    score = log_likelihood(model, inference, X, num_particles=50).mean
    assert score > -13  # sd = 5 at the start: -16
    for pair in (
        load(tmp_path / "run", model=kind(), guide=Guide()),
        (copy.deepcopy(model), copy.deepcopy(inference)),
        copy.deepcopy((model, inference)),
    ):
        assert log_likelihood(*pair, X, num_particles=50).mean == score
    resumed = kind(), Guide()
    again = fit(*resumed, X, epochs=60, out=tmp_path / "run", resume=True, **options)
    assert log_likelihood(again.model, again.guide, X, num_particles=50).mean == score


def test_parts_trained_apart_with_values_of_one_name_are_refused():
    first, second = Model(), Model()
    one, other = Guide(), Guide()
    for pair, value in (((first, one), 1.0), ((second, other), 2.0)):
        programs = as_programs(*pair)
        prime(*programs, {"x": X})
        with torch.no_grad():
            programs[0].store.sd.fill_(value)
    as_programs(first, one), as_programs(second, other)
    with pytest.raises(InputError, match=r"trained apart, and each has a pyro\.param 'sd'"):
        as_programs(first, other)


def test_a_tensor_that_nobody_could_save_is_refused():
    loose = torch.zeros(2, requires_grad=True)

    def shifted(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loose.expand(len(x), 2), 1.0).to_event(1))

    with pytest.raises(
        InputError, match=r"the guide uses a tensor \(2,\) that requires a gradient .*torch\.nn\.Parameter"
    ):
        fit(model_with(Nets(decoder(), nn.Parameter(torch.ones(6))), lambda h: h.decoder), shifted, X, progress=False)


def test_weights_of_another_program_are_not_awaited_forever(tmp_path):
    fit(Model(), Guide(), X, epochs=1, progress=False, out=tmp_path / "run")

    class Without(Model):
        def forward(self, x=None, num_samples=1):
            with pyro.plate("data", num_samples if x is None else len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.dec(z), 1.0).to_event(1), obs=x)

    pair = load(tmp_path / "run", model=Without(), guide=Guide())
    with pytest.raises(InputError, match=r"weights that were loaded hold '.*', which its program does not use"):
        log_likelihood(*pair, X, num_particles=2)


def test_frozen_modules_and_those_of_others_stay_as_they_are():
    frozen, mine = nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 6)
    holder = types.SimpleNamespace(frozen=frozen, mine=mine, unrelated=nn.Linear(3, 3))
    before = frozen.weight.clone()
    result = fit(model_with(holder, lambda h: lambda z: h.mine(h.frozen(z))), guide, X, epochs=2, progress=False)
    assert torch.equal(frozen.weight, before)
    owned = {id(p) for p in result.model.parameters()}
    assert id(mine.weight) in owned and id(frozen.weight) in owned and id(holder.unrelated.weight) not in owned


@pytest.mark.parametrize("who", [("sd",), ("shift",), ("sd", "shift")])
@pytest.mark.parametrize("model_is", ["module", "PyroModule", "function"])
@pytest.mark.parametrize("guide_is", ["module", "PyroModule", "function"])
def test_statements_of_modules_beside_functions_are_loaded(model_is, guide_is, who, tmp_path):
    """A pair of one module and one function shares one store: whichever says pyro.param, its values come back."""

    def param(name):
        return pyro.param(name, torch.tensor(1.0)) if name in who else torch.tensor(1.0)

    def pair():
        decoder, encoder = nn.Linear(2, 6), nn.Linear(6, 4)

        def model(x=None, num_samples=1):
            with pyro.plate("data", num_samples if x is None else len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(decoder(z), param("sd")).to_event(1), obs=x)

        def guide(x):
            loc, raw = encoder(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc + param("shift"), raw.exp()).to_event(1))

        def made(function, kind, net):
            if kind == "function":
                return function

            class Made({"module": nn.Module, "PyroModule": PyroModule}[kind]):
                def __init__(self):
                    super().__init__()
                    self.net = net

                forward = staticmethod(function)

            return Made()

        return made(model, model_is, decoder), made(guide, guide_is, encoder)

    how = {"epochs": 5, "learning_rate": 0.05, "batch_size": 20, "progress": False, "device": "cpu"}
    result = fit(*pair(), X, out=tmp_path / "run", **how)
    score = log_likelihood(result.model, result.guide, X, num_particles=20).mean
    model, guide = pair()
    assert log_likelihood(*load(tmp_path / "run", model=model, guide=guide), X, num_particles=20).mean == score
