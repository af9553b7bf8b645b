"""A fresh guide for a fixed model: the posterior where it is known, and not a bit of the model moved."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from safetensors.torch import load_file
from torch import nn

import pyro_vae
from pyro_vae.errors import InputError
from pyro_vae.guides import GaussianGuide, LadderGuide
from pyro_vae.models import VAE, HierarchicalVAE
from pyro_vae.priors import VampPrior

FAST = {"device": "cpu", "progress": False, "batch_size": 100}
IMAGE = (1, 8, 8)


class Affine(nn.Module):
    """q(z | x) = N(A x + b, diag s^2): of a linear-Gaussian model all that a diagonal guide can be."""

    def __init__(self, data_dim, latent_dim):
        super().__init__()
        self.mean, self.log_scale = nn.Linear(data_dim, latent_dim), nn.Parameter(torch.full((latent_dim,), -7.0))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.mean(x), self.log_scale.exp()).to_event(1))


class Normed(nn.Module):
    """A decoder with batch norm and dropout, which training mode would move."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 64))

    def forward(self, x=None, *, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = self.net(z.reshape(-1, 2)).reshape(*z.shape[:-1], *IMAGE)
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)


def vae():
    return VAE(IMAGE, latent_dim=2, hidden_dims=(8,))


def images(n, seed=0):
    return (torch.rand(n, *IMAGE, generator=torch.Generator().manual_seed(seed)) > 0.6).float()


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_as_it_was(model, before):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.requires_grad for p in model.parameters())
    assert not any("train" in vars(module) for module in model.modules())


def test_it_finds_the_posterior_that_is_known():
    """Of orthogonal loadings the posterior is diagonal: the refitted guide is exact, and so is its bound."""
    ppca = PPCA(data_dim=6, latent_dim=2, dtype=torch.float32)
    ppca.weight = torch.linalg.qr(ppca.weight)[0] * torch.tensor([2.0, 0.7])
    ppca.posterior_covariance = torch.linalg.inv(torch.eye(2) + ppca.weight.T @ ppca.weight / ppca.noise**2)
    guide, test = Affine(6, 2), ppca.sample(40, seed=9)
    schedule = pyro_vae.training.Cosine(0.05, 1e-4, 40)
    result = pyro_vae.refit_guide(ppca.model, ppca.sample(2000), guide, epochs=40, learning_rate=schedule, **FAST)
    exact = ppca.posterior_covariance.diagonal().sqrt()
    torch.testing.assert_close(guide.log_scale.exp().detach(), exact, atol=0.02, rtol=0)
    torch.testing.assert_close(guide.mean(test).detach(), ppca.posterior_mean(test), atol=0.05, rtol=0)
    found = pyro_vae.log_likelihood(result.model, result.guide, test, num_particles=200, progress=False)
    torch.testing.assert_close(found.per_datum, ppca.log_prob(test), atol=0.01, rtol=0)
    assert len(result.records) == 40


@pytest.mark.parametrize("compile", ["off", "graph"])
@pytest.mark.parametrize(
    "options", [{}, {"ema_decay": 0.9, "optimizer": "adamw", "optimizer_options": {"weight_decay": 0.5}}]
)
def test_no_bit_of_the_model_moves(compile, options):
    torch.manual_seed(0)
    model = Normed()
    pyro_vae.fit(model, guide := GaussianGuide(vae(), hidden_dims=(8,)), images(200), epochs=1, **FAST)
    before, modes = state(model), {name: module.training for name, module in model.named_modules()}
    fresh = GaussianGuide(vae(), hidden_dims=(8,))
    started = state(fresh)
    data = {"train": images(200), "validation": images(100, 1)}
    result = pyro_vae.refit_guide(model, data, fresh, epochs=3, patience=2, compile=compile, **options, **FAST)
    assert_as_it_was(model, before)
    assert result.model is model and result.guide is fresh and not any(module.training for module in model.modules())
    assert all(not torch.equal(tensor, started[name]) for name, tensor in fresh.named_parameters())
    assert modes.keys() == {name for name, _ in model.named_modules()} and guide is not fresh


@pytest.mark.parametrize("at", [0, 2])
def test_the_model_is_given_back_after_an_error_too(at):
    model, fresh = Normed().train(), GaussianGuide(vae(), hidden_dims=(8,))
    before = state(model)

    class Fails:
        def on_step(self, view):
            assert not model.net[1].training and view is not None
            if view.step > at:
                raise RuntimeError("as asked")

    with pytest.raises(RuntimeError, match="as asked"):
        pyro_vae.refit_guide(model, images(300), fresh, epochs=2, callbacks=[Fails()], **FAST)
    assert_as_it_was(model, before)
    assert all(module.training for module in model.modules())


def test_a_guide_that_runs_the_model_trains_its_own_weights_alone():
    torch.manual_seed(0)
    model = HierarchicalVAE(IMAGE, (4, 2), (16, 8))
    fresh, before = LadderGuide(model, (16, 8), merge="residual"), state(model)
    started = {name: p.detach().clone() for name, p in fresh.named_parameters() if not name.startswith("model.")}
    pyro_vae.refit_guide(model, images(200), fresh, epochs=2, **FAST)
    assert_as_it_was(model, before)
    assert any(not torch.equal(p, started[name]) for name, p in fresh.named_parameters() if name in started)


def test_plain_functions_and_pyro_params():
    """The store that both share: what the model says of it stays, what the guide says is trained."""

    def model(x=None, num_samples=1):
        loc = pyro.param("loc", torch.tensor(1.5))
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def old(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(pyro.param("old", torch.tensor(0.0)), 1e-3))

    def fresh(x):
        scale = pyro.param("scale", torch.tensor(0.1), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample(
                "z", dist.Normal(pyro.param("a", torch.tensor(0.0)) * x + pyro.param("b", torch.tensor(0.0)), scale)
            )

    x = 1.0 + torch.randn(1000, generator=torch.Generator().manual_seed(0))
    trained = pyro_vae.fit(model, old, x, epochs=2, **FAST)
    loc = trained.model.param("loc").clone()
    result = pyro_vae.refit_guide(trained.model, x, fresh, epochs=60, learning_rate=0.03, **FAST)
    assert torch.equal(result.model.param("loc"), loc)
    found = {name: result.guide.param(name).item() for name in ("a", "b", "scale")}
    assert found == pytest.approx({"a": 0.5, "b": loc.item() / 2, "scale": 0.5**0.5}, abs=0.02)
    exact = dist.Normal(loc, 2**0.5).log_prob(x[:50])
    bound = pyro_vae.log_likelihood(result.model, result.guide, x[:50], num_particles=100, progress=False)
    torch.testing.assert_close(bound.per_datum.float(), exact, atol=0.02, rtol=0)


def test_a_pyro_module_stays_frozen():
    """Reading such a parameter makes it one of Pyro's, which would want its gradient again."""

    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = PyroParam(torch.tensor(0.5), constraint=constraints.positive)
            self.net = PyroModule[nn.Linear](2, 64)

        def forward(self, x=None, *, num_samples=1):
            with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.net(z), self.scale).to_event(1), obs=x)

    model, fresh = Model(), Affine(64, 2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    started = state(fresh)
    pyro_vae.refit_guide(model, torch.randn(200, 64), fresh, epochs=2, learning_rate=0.01, **FAST)
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in model.named_parameters())
    assert not torch.equal(fresh.log_scale, started["log_scale"])


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_it_resumes_to_the_same_result(tmp_path, compile):
    torch.manual_seed(0)
    model = Normed()
    how = {**FAST, "batch_size": 50, "learning_rate": 0.01, "ema_decay": 0.9, "compile": compile}

    def fresh():
        torch.manual_seed(1)
        return GaussianGuide(vae(), hidden_dims=(8,))

    data = {"train": images(200), "validation": images(100, 1)}
    straight = pyro_vae.refit_guide(model, data, fresh(), epochs=4, **how).guide
    pyro_vae.refit_guide(model, data, fresh(), epochs=2, out=tmp_path / "g", **how)
    before = state(model)
    resumed = pyro_vae.refit_guide(model, data, fresh(), epochs=4, out=tmp_path / "g", resume=True, **how).guide
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert_as_it_was(model, before)
    saved = load_file(tmp_path / "g" / "model.safetensors")
    assert all(torch.equal(saved[f"model.{name}"], tensor) for name, tensor in before.items())


def test_what_is_refused():
    own = vae()
    with pytest.raises(InputError, match="no weight of its own to train"):
        pyro_vae.refit_guide(own, images(20), lambda x: own(x), epochs=1, **FAST)
    with pytest.raises(InputError, match=r"'model.temperature' is of the model"):
        pyro_vae.refit_guide(
            own, images(20), GaussianGuide(vae(), hidden_dims=(8,)), epochs=1, schedules={"model.temperature": 1.0}
        )
    with pytest.raises(InputError, match="64-true would make the model float64"):
        pyro_vae.refit_guide(
            own, images(20), GaussianGuide(vae(), hidden_dims=(8,)), epochs=1, precision="64-true", **FAST
        )
    vamp = VAE(IMAGE, latent_dim=2, hidden_dims=(8,), prior=VampPrior((2,), data_shape=IMAGE, num_components=3))
    with pytest.raises(InputError, match="VampPrior is made of the guide's posteriors"):
        pyro_vae.refit_guide(vamp, images(20), GaussianGuide(vae(), hidden_dims=(8,)), epochs=1, **FAST)


def test_a_model_that_moves_by_itself_is_refused_and_put_back(tmp_path):
    class Counts(Normed):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x=None, *, num_samples=1):
            self.calls += 1
            return super().forward(x, num_samples=num_samples)

    model, fresh = Counts(), GaussianGuide(vae(), hidden_dims=(8,))
    before, out = state(model), tmp_path / "g"
    with pytest.raises(InputError, match="its buffer 'calls' changes though nothing of the model is trained"):
        pyro_vae.refit_guide(model, images(40), fresh, epochs=1, compile="off", out=out, **FAST)
    assert_as_it_was(model, before)
    assert not out.exists()  # nothing is trained for it


def test_one_that_moves_later_is_refused_too():
    class Late(Normed):
        def __init__(self):
            super().__init__()
            self.register_buffer("largest", torch.tensor(30.0))

        def forward(self, x=None, *, num_samples=1):
            if x is not None:
                self.largest.clamp_(min=len(x))
            return super().forward(x, num_samples=num_samples)

    model = Late()
    before = state(model)
    with pytest.raises(InputError, match="its buffer 'largest' changes"):
        fresh = GaussianGuide(vae(), hidden_dims=(8,))
        pyro_vae.refit_guide(model, images(40), fresh, epochs=1, compile="off", **FAST)
    assert_as_it_was(model, before)


def test_it_does_not_go_on_with_another_model(tmp_path):
    """The checkpoint has the model's weights: with them the guide would be fitted to that one."""
    one, other = vae(), vae()
    before = state(other)
    pyro_vae.refit_guide(one, images(40), GaussianGuide(one, hidden_dims=(8,)), epochs=1, out=tmp_path / "g", **FAST)
    kept = load_file(tmp_path / "g" / "model.safetensors")
    fresh = GaussianGuide(other, hidden_dims=(8,))
    with pytest.raises(InputError, match="the model, which stays as it is"):
        pyro_vae.refit_guide(other, images(40), fresh, epochs=2, out=tmp_path / "g", resume=True, **FAST)
    assert_as_it_was(other, before)
    assert all(torch.equal(kept[n], t) for n, t in load_file(tmp_path / "g" / "model.safetensors").items())
