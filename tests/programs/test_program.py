"""Program: any Pyro program as a module that owns its parameters, and leaves Pyro's global store alone."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

from pyro_vae import fit
from pyro_vae.evaluation import log_likelihood
from pyro_vae.objectives import ELBO
from pyro_vae.programs.context import accepted_arguments
from pyro_vae.programs.program import Program, as_programs, prime

positive = dist.constraints.positive
global_net = nn.Linear(2, 2)


def normal_sites(x, loc_z, loc_x, scale=1.0):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(loc_z, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(loc_x, scale).to_event(1), obs=x)


def quiet_fit(model, guide, x, **options):
    return fit(model, guide, x, **{"epochs": 20, "batch_size": 50, "progress": False, "device": "cpu", **options})


# ------------------------------------------------------------------------------ arguments
def test_programs_are_handed_what_they_have_arguments_for():
    seen = []

    def only_x(x=None):
        seen.append({"x": x})

    def with_y(x, *, y):
        seen.append({"x": x, "y": y})

    def everything(**batch):
        seen.append(batch)

    class Module(nn.Module):
        def forward(self, y):
            seen.append({"y": y})

    for program in (only_x, with_y, everything, Module()):
        Program(program)(x=1, y=2, label=3)
    assert seen == [{"x": 1}, {"x": 1, "y": 2}, {"x": 1, "y": 2, "label": 3}, {"y": 2}]
    assert accepted_arguments(everything) is None and accepted_arguments(Module()) == {"y"}


# ------------------------------------------------------------------------------ where parameters are found
def test_modules_of_a_plain_function_are_found_wherever_it_refers_to_them():
    closed_over, bound, keyword, within = (nn.Linear(2, 2) for _ in range(4))

    def from_global(x):
        return global_net(x)

    def from_closure(x):
        return closed_over(x)

    def given(net, x, other=None):
        return closed_over(net(x)) + other(x)

    class Holder:
        def __init__(self, net):
            self.net = net

        def method(self, x):
            return self.net(x)

    @functools.wraps(from_closure)
    def wrapped(*args, **kwargs):
        return from_closure(*args, **kwargs)

    def weights(program):
        return {id(p) for p in Program(program).parameters()}

    def of(*modules):
        return {id(p) for m in modules for p in m.parameters()}

    assert weights(from_global) == of(global_net)
    assert weights(from_closure) == of(closed_over)
    assert weights(wrapped) == of(closed_over)
    assert weights(functools.partial(given, bound, other=keyword)) == of(closed_over, bound, keyword)
    assert weights(functools.partial(functools.partial(given, bound), other=keyword)) == of(closed_over, bound, keyword)
    assert weights(Holder(within).method) == of(within)


def test_modules_behind_helper_functions_containers_and_awkward_names_are_found():
    net, keys = nn.Linear(2, 2), nn.Linear(2, 2)  # an nn.ModuleDict has a method of the name `keys`
    listed, named = [nn.Linear(2, 2), nn.Linear(2, 2)], {"a.b": nn.Linear(2, 2)}

    def decode(z):
        return net(z) if len(z) else recursive(z)

    def recursive(x):
        inner = lambda z: global_net(keys(z))  # noqa: E731
        return normal_sites(x, torch.zeros(2), decode(inner(named["a.b"](listed[0](listed[1](x))))))

    modules = [net, keys, global_net, *listed, *named.values()]
    found = {id(p) for p in Program(recursive).parameters()}
    assert found == {id(p) for m in modules for p in m.parameters()}
    assert len(Program(recursive).modules_used) == 6


def param_pair(init=1.0):
    def model(x):
        spread = pyro.param("spread", torch.tensor(init), constraint=positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), spread).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(x):
        spread = pyro.param("spread", torch.tensor(init), constraint=positive)  # the model's
        slope = pyro.param("slope.x", torch.tensor(0.5))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(slope * x, 0.4 + 0.0 * spread).to_event(1))

    return model, guide


def test_pyro_params_are_shared_trained_and_private():
    x = 3 * torch.randn(200, 2)
    pyro.param("spread", torch.tensor(123.0))  # the user's own, of the same name, in the global store
    result = quiet_fit(*param_pair(), x, learning_rate=0.05, epochs=60)
    assert pyro.param("spread").item() == 123.0 and list(pyro.get_param_store().keys()) == ["spread"]
    pyro.clear_param_store()
    store = result.model.store
    assert store is result.guide.store
    values = {n: store.get_parameter(k).item() for n, k in store.names.items()}
    assert set(values) == {"spread", "slope.x"}
    # spread^2 + 0.25 = 9 + 0.25; slope = 9 / 9.25
    assert values["slope.x"] == pytest.approx(9 / 9.25, abs=0.05)
    with torch.no_grad():
        assert torch.tensor(values["spread"]).exp().item() == pytest.approx(3.0, abs=0.4)  # held unconstrained
    score = log_likelihood(result.model, result.guide, x, num_particles=20).mean
    assert score > log_likelihood(*as_programs(*param_pair()), x, num_particles=20).mean + 1


def test_the_unconstrained_form_of_a_parameter_is_at_hand_as_in_pyro():
    """``pyro.param(...).unconstrained()``, which penalties of parameters are written with."""
    seen = []

    def model(x):
        spread = pyro.param("spread", torch.tensor(2.0), constraint=dist.constraints.positive)
        seen.append((spread, spread.unconstrained()))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(0.0, spread), obs=x)

    result = fit(model, lambda x: None, torch.randn(20), epochs=1, progress=False, device="cpu")
    _, raw = seen[-1]
    assert isinstance(raw, nn.Parameter) and any(raw is p for p in result.model.parameters())
    torch.testing.assert_close(raw.exp(), result.model.param("spread"))


def test_two_pairs_with_equal_names_have_weights_of_their_own():
    x = torch.randn(20, 2)
    one, two = as_programs(*param_pair(1.0)), as_programs(*param_pair(2.0))
    prime(*one, {"x": x}), prime(*two, {"x": x})
    assert one[0].store.spread.item() == 0.0 and two[0].store.spread.item() == pytest.approx(0.6931, abs=1e-3)
    quiet_fit(*one, x, epochs=1)
    assert one[0].store.spread.item() != 0.0 and two[0].store.spread.item() == pytest.approx(0.6931, abs=1e-3)

    class Model(PyroModule):
        def __init__(self, value):
            super().__init__()
            self.loc = PyroParam(torch.tensor(value))

        def forward(self, x):
            return self.loc

    first, second = Program(Model(1.0)), Program(Model(2.0))
    assert (first(x=x).item(), second(x=x).item()) == (1.0, 2.0)
    assert dict(pyro.get_param_store().items()) == {}


def test_as_programs_keeps_programs_and_their_store():
    model, guide = as_programs(*param_pair())
    assert as_programs(model, guide) == (model, guide)
    mixed_model, mixed_guide = as_programs(model, param_pair()[1])
    assert mixed_model is model and mixed_guide.store is model.store


def test_priming_leaves_random_state_modes_and_statistics():
    norm = nn.BatchNorm1d(2)

    def model(x):
        normal_sites(x, torch.zeros(2), norm(x))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    model, guide = as_programs(model, guide)
    x, state = torch.randn(4, 2), torch.get_rng_state()
    model_trace, guide_trace = prime(model, guide, {"x": x})
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and norm.training and norm.num_batches_tracked == 0
    assert set(model_trace.nodes) >= {"z", "x"} and "z" in guide_trace.nodes


# ------------------------------------------------------------------------------ frozen parameters
class Frozen(PyroModule):
    def __init__(self, frozen=True):
        super().__init__()
        self.fixed, self.free = nn.Linear(2, 2), nn.Linear(2, 2)
        self.fixed.requires_grad_(not frozen)
        self.scale = PyroParam(torch.tensor(1.0), constraint=positive)
        if frozen:
            self.scale_unconstrained.requires_grad_(False)


class FrozenModel(Frozen):
    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.free(self.fixed(z)), self.scale).to_event(1), obs=x)


class FrozenGuide(Frozen):
    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.free(self.fixed(x)), self.scale).to_event(1))


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_parameters_stay_frozen_and_unchanged_through_fit(frozen):
    pair = FrozenModel(frozen), FrozenGuide(frozen)
    before = [{n: p.detach().clone() for n, p in m.named_parameters()} for m in pair]
    quiet_fit(*pair, torch.randn(100, 2), epochs=3, ema_decay=0.9)
    for module, old in zip(pair, before, strict=True):
        for name, p in module.named_parameters():
            fixed = frozen and not name.startswith("free")
            assert p.requires_grad is not fixed, name
            assert torch.equal(p, old[name]) is fixed, name


# ------------------------------------------------------------------------------ PyroModules
class Scaled(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = PyroModule[nn.Linear](2, 2)
        self.scale = PyroParam(torch.tensor(0.7), constraint=positive)

    def forward(self, h):
        return self.net(h) * self.scale


def test_pyro_modules_made_outside_local_mode_work_as_programs_and_inside_functions():
    assert not pyro.settings.get("module_local_params")
    inner = Scaled()

    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.inner = Scaled()

        def forward(self, x):
            normal_sites(x, torch.zeros(2), self.inner(x))

    def function(x):
        normal_sites(x, torch.zeros(2), inner(x))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    x = torch.randn(100, 2)
    for model, module in ((Model(), None), (function, inner)):
        module = module or model.inner
        before = module.net.weight.detach().clone(), module.scale.item()
        quiet_fit(model, guide, x, learning_rate=0.05, epochs=3)
        assert not torch.equal(module.net.weight, before[0])
        assert module.scale_unconstrained.exp().item() != before[1]
    pyro.clear_param_store()  # `module.scale.item()` above, by the user, outside local mode, made entries
    assert not pyro.settings.get("module_local_params")


def test_random_attributes_are_sampled():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.w = PyroSample(dist.Normal(0.0, 1.0))

        def forward(self, x):
            w = self.w
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(pyro.param("m", torch.tensor(0.3)), 1.0))

    model, guide = as_programs(Model(), guide)
    x = torch.ones(50)
    prime(model, guide, {"x": x})
    loss = ELBO()(model, guide)(x=x)
    loss.backward()
    assert guide.store.m.grad is not None and guide.store.m.grad != 0


decoder = torch.nn.Linear(2, 3)  # no part of the program below, whose attribute has the same name


class WithMethods(torch.nn.Module):
    """A class with the methods model and guide."""

    def __init__(self):
        super().__init__()
        self.decoder = torch.nn.Linear(1, 3)

    def model(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


def test_an_attribute_is_not_taken_for_a_global_of_its_name():
    both = WithMethods()
    found = {id(p) for p in Program(both.model).parameters()}
    assert found == {id(p) for p in both.parameters()}
