"""Recordings of programs whose distributions remember what they have seen: the caches of transforms."""

import copy
import logging

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from pyro_vae import fit
from pyro_vae.models import VAE
from pyro_vae.objectives import ELBO
from pyro_vae.recording import NotRecordable, Recording

FLOWS = {
    "planar": lambda: T.planar(2),
    "radial": lambda: T.radial(2),
    "spline": lambda: T.spline(2),
    "inverse autoregressive": lambda: T.affine_autoregressive(2, [8]),
    "spline autoregressive": lambda: T.spline_autoregressive(2, [8]),
    "neural autoregressive": lambda: T.neural_autoregressive(2, [8]),
    "conditional planar": lambda: T.conditional_planar(2, 6, [8]),
}


class Guide(nn.Module):
    """A Gaussian, bent by a flow."""

    def __init__(self, flow):
        super().__init__()
        self.encoder, self.flow = nn.Linear(6, 4), flow

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        base = dist.Normal(loc, nn.functional.softplus(raw) + 0.1).to_event(1)
        flow = self.flow.condition(x) if isinstance(self.flow, dist.conditional.ConditionalTransform) else self.flow
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))


def data(n=25):
    return {"x": (torch.rand(n, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()}


def left_in(module):
    """Tensors without numbers that a recording left behind."""
    values = [v for m in module.modules() for v in vars(m).values()]
    return [t for v in values for t in (v if isinstance(v, tuple) else (v,)) if isinstance(t, FakeTensor)]


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_is_trained_on_graphs_as_it_is_eagerly(name, caplog):
    losses, states = [], []
    for mode in ("graph", "off"):
        torch.manual_seed(0)
        model = VAE((6,), latent_dim=2, hidden_dims=[8])
        guide = Guide(FLOWS[name]())
        with caplog.at_level(logging.INFO, "pyro_vae.training.compiled"):
            result = fit(
                model,
                guide,
                data(),
                objective=ELBO(num_particles=2),
                epochs=3,
                batch_size=10,
                learning_rate=0.02,
                seed=2,
                compile=mode,
                progress=False,
            )
        losses.append(torch.tensor([r["train/loss"] for r in result.records]))
        states.append(guide.state_dict())
        assert not left_in(guide)
    told = [r.getMessage() for r in caplog.records if r.name == "pyro_vae.training.compiled"]
    assert len(told) == 2 and all("recorded for" in line for line in told)  # one for each shape of batch
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-4, atol=1e-5)
    start = FLOWS[name]()
    assert any(not torch.equal(v, start.state_dict()[k[5:]]) for k, v in states[0].items() if k.startswith("flow."))


@pytest.mark.parametrize("compile", ["off", "graph"])
@pytest.mark.parametrize("name", FLOWS)
def test_a_trained_flow_can_be_copied(name, compile):
    """The last batch's values, which hang on its graph, could not be."""
    model, kept = VAE((6,), latent_dim=2, hidden_dims=[8]), Guide(FLOWS[name]())

    def guide(x):
        kept(x)

    how = {"epochs": 2, "batch_size": 10, "compile": compile, "progress": False}
    result = fit(model, guide, data(), objective=ELBO(num_particles=2), **how)
    pair = result.model, result.guide
    copies = copy.deepcopy(pair)
    ours, theirs = ([v for p in each for v in p.state_dict().values()] for each in (pair, copies))
    assert ours and all(torch.equal(a, b) and a is not b for a, b in zip(ours, theirs, strict=True))


def test_what_a_transform_has_seen_is_neither_state_nor_a_constant():
    """A transform asked at one and the same tensor in every call remembers it; its graph does not."""

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.flow, self.grid = T.planar(2), torch.ones(3, 2)

        def forward(self, x):
            return (self.flow(self.grid).sum() * x,)

    module = Module()
    batch = {"x": torch.tensor(2.0)}
    recording = Recording(module, module, batch, False)
    assert not left_in(module)
    with torch.no_grad():
        module.flow.u.add_(1.0)
    ours = recording(batch)[0][0]
    module.flow._cached_x_y = None, None
    torch.testing.assert_close(ours, module(**batch)[0].detach())


def test_distributions_and_transforms_that_a_program_keeps_hold_numbers_afterwards():
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.transform = dist.transforms.SigmoidTransform(cache_size=1)
            self.parts = [dist.transforms.ExpTransform(cache_size=1).inv]
            self.normal = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))

        def forward(self, x):
            y = self.parts[0](self.transform(x))
            return ((self.normal.precision_matrix @ y).sum(),)

    module = Module()
    batch = {"x": torch.tensor([0.2, 1.0])}
    recording = Recording(module, module, batch, False)
    recording.check({"x": torch.tensor([0.5, -1.0])}, 1e-6)
    kept = [*module.transform._cached_x_y, *module.parts[0]._inv._cached_x_y, module.normal.precision_matrix]
    assert all(type(value) is torch.Tensor for value in kept)


def test_a_module_that_keeps_its_last_input_is_refused():
    """It is not known whether the next call looks at it."""

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = torch.zeros(3)

        def forward(self, x):
            before, self.last = self.last, x
            return (x + before,)

    module = Module()
    with pytest.raises(NotRecordable, match="changes last at every call"):
        Recording(module, module, {"x": torch.ones(3)}, False)
    assert torch.equal(module.last, torch.zeros(3))


# ------------------------------------------------------------------------------ memory layouts
def test_a_batch_in_another_layout_has_the_same_results():
    """Rows, columns, and one row said to be many: views of a graph fit the memory that it was recorded for."""

    class Module(nn.Module):
        def forward(self, x):
            return (x.reshape(-1).cumsum(0), torch.as_strided(x.contiguous(), (4, 2), (3, 1)))

    module = Module()
    x = torch.arange(12.0).reshape(4, 3)
    recording = Recording(module, module, {"x": x}, False)
    for other in (x, x.T.contiguous().T, x[:1].expand(4, 3), torch.cat([x, x], 1)[:, 2:5]):
        for ours, eager in zip(recording({"x": other})[0], module(other), strict=True):
            assert torch.equal(ours, eager)
    columns = Recording(module, module, {"x": x.T.contiguous().T}, False)
    for ours, eager in zip(columns({"x": x})[0], module(x), strict=True):
        assert torch.equal(ours, eager)
