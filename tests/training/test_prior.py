"""Priors fitted afterwards to a guide's draws: the aggregated posterior where it is known, and nothing else moved."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA
from pyro import poutine
from safetensors.torch import load_file
from torch import nn

import pyro_vae
from pyro_vae.errors import InputError
from pyro_vae.guides import BIVAGuide, ConditionalGuide, GaussianGuide, LadderGuide
from pyro_vae.models import BIVA, VAE, ConditionalVAE, HierarchicalVAE
from pyro_vae.networks import Attributes, OneHot, diagonal_normal
from pyro_vae.priors import MixtureDensityPrior, VampPrior
from pyro_vae.programs.context import accepted_arguments, label_context, needed_to_generate, unwrapped
from pyro_vae.programs.program import Program, as_programs
from pyro_vae.programs.site_priors import WithPriors
from pyro_vae.programs.traces import traced
from pyro_vae.runtime import private_seed

FAST = {"device": "cpu", "progress": False, "batch_size": 100}
IMAGE = (1, 8, 8)


class Gaussian(nn.Module):
    """N(m, L L^T), with m and L learned."""

    def __init__(self, size):
        super().__init__()
        self.shape, self.loc, self.raw = (size,), nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(size, size))

    @property
    def tril(self):
        return self.raw.tril(-1) + self.raw.diagonal().exp().diag()

    def forward(self):
        return dist.MultivariateNormal(self.loc, scale_tril=self.tril)


class PerClass(nn.Module):
    """N(m_y, I), with a mean for each label."""

    def __init__(self, classes, size):
        super().__init__()
        self.means, self.context = nn.Embedding(classes, size), {"y": label_context(classes)}

    def forward(self, y):
        return dist.Normal(self.means(y), 1.0).to_event(1)


def images(n, seed=0):
    return (torch.rand(n, *IMAGE, generator=torch.Generator().manual_seed(seed)) > 0.6).float()


@pytest.fixture(scope="module")
def fitted():
    """PPCA with data that it did not make, and the Gaussian prior fitted to its exact posteriors."""
    ppca = PPCA(data_dim=6, latent_dim=2, dtype=torch.float32)
    x = 1.5 * ppca.sample(2000) + 0.7
    prior = Gaussian(2)
    how = {"epochs": 25, "learning_rate": pyro_vae.training.Cosine(0.05, 1e-4, 25)}
    return ppca, x, prior, pyro_vae.fit_prior(ppca.model, ppca.exact_guide, x, prior, **how, **FAST)


def test_it_recovers_the_aggregated_posterior(fitted):
    """Of exact Gaussian posteriors N(m(x), V) it is a mixture; the best Gaussian has its mean and covariance."""
    ppca, x, prior, result = fitted
    means = ppca.posterior_mean(x)
    torch.testing.assert_close(prior.loc.detach(), means.mean(0), atol=0.02, rtol=0)
    covariance = (means - means.mean(0)).T @ (means - means.mean(0)) / len(x) + ppca.posterior_covariance
    torch.testing.assert_close((prior.tril @ prior.tril.T).detach(), covariance, atol=0.05, rtol=0)
    exact = dist.MultivariateNormal(means, ppca.posterior_covariance)
    best = dist.MultivariateNormal(means.mean(0), covariance)
    kl = torch.distributions.kl_divergence(exact, best.expand(exact.batch_shape)).mean()
    assert result.records[-1]["train/kl/z"] == pytest.approx(kl.item(), abs=1e-3)  # the KL is what it is trained by
    assert result.records[-1]["train/loss"] == result.records[-1]["train/kl/z"]


def test_log_p_of_x_under_it_by_quadrature_and_in_closed_form(fitted):
    ppca, x, prior, result = fitted
    side = torch.linspace(-9.0, 9.0, 361, dtype=torch.float64)
    z = torch.cartesian_prod(side, side)  # (cells, 2)
    p = dist.MultivariateNormal(prior.loc.detach().double(), scale_tril=prior.tril.detach().double())
    mean = z @ ppca.weight.T.double() + ppca.bias.double()
    log_p = dist.Normal(mean, ppca.noise).to_event(1).log_prob(x[:20, None].double())
    quadrature = (log_p + p.log_prob(z)).logsumexp(-1) + 2 * (side[1] - side[0]).log()
    marginal = ppca.weight @ (prior.tril @ prior.tril.T).detach() @ ppca.weight.T + ppca.noise**2 * torch.eye(6)
    closed = dist.MultivariateNormal(ppca.weight @ prior.loc.detach() + ppca.bias, marginal).log_prob(x[:20])
    torch.testing.assert_close(quadrature.float(), closed, atol=1e-3, rtol=0)
    found = pyro_vae.log_likelihood(result.model, result.guide, x[:20], num_particles=4000, progress=False)
    torch.testing.assert_close(found.per_datum.float(), closed, atol=0.05, rtol=0)
    before = pyro_vae.log_likelihood(ppca.model, ppca.exact_guide, x[:20], num_particles=10, progress=False)
    assert found.mean > before.mean + 0.3


def test_the_model_is_the_same_but_for_that_site(fitted):
    ppca, x, prior, result = fitted
    model, guide = as_programs(result.model, result.guide)
    with torch.no_grad():
        held = poutine.trace(guide).get_trace(x=x[:5])
        old, new = (traced(poutine.replay(program, trace=held), x=x[:5]) for program in (Program(ppca.model), model))
        z = held.nodes["z"]["value"]
        expected = prior().log_prob(z)
        torch.testing.assert_close(new.nodes["z"]["fn"].log_prob(z), expected)
        assert torch.equal(new.nodes["x"]["fn"].log_prob(x[:5]), old.nodes["x"]["fn"].log_prob(x[:5]))
        assert not torch.allclose(expected, old.nodes["z"]["fn"].log_prob(z))
    assert accepted_arguments(result.model) == {"x", "num_samples"}
    drawn = pyro_vae.sample(result.model, 4000)["z"]
    torch.testing.assert_close(drawn.mean(0), prior.loc.detach(), atol=0.12, rtol=0)


def ladder():
    model = HierarchicalVAE(IMAGE, (4, 2), (16, 8))
    return model, LadderGuide(model, (16, 8), merge="residual"), "z2"


def biva():
    model = BIVA(IMAGE, (4, 2), (8, 8), (2, 1), num_blocks=1)
    return model, BIVAGuide(model, num_blocks=1, parameterization="residual"), "z2"


@pytest.mark.parametrize("make", [ladder, biva])
def test_the_guide_that_runs_the_model_does_not_change(make):
    """Its q below the top is relative to the model's conditionals, and stays so bit by bit."""
    torch.manual_seed(0)
    model, guide, top = make()
    x = images(40)
    _, program = as_programs(model.eval(), guide.eval())

    def q():
        with torch.no_grad(), private_seed(3):
            nodes = poutine.trace(program).get_trace(x=x[:6]).nodes
        return {n: s["fn"].log_prob(s["value"]) for n, s in nodes.items() if n.startswith("z")}

    whole = nn.ModuleList([model, guide])
    before, kept = q(), {name: p.detach().clone() for name, p in whole.named_parameters()}
    prior = Gaussian(2)
    with torch.no_grad():
        prior.loc.fill_(0.3)
    result = pyro_vae.fit_prior(model, guide, x, prior, epochs=3, learning_rate=0.05, **FAST)
    assert result.guide is guide and isinstance(result.model, WithPriors) and result.model.names == (top,)
    for name, value in q().items():
        assert torch.equal(value, before[name]), name
    for name, p in whole.named_parameters():
        assert torch.equal(p, kept[name]) and p.requires_grad, name
    assert not torch.equal(prior.loc, torch.full((2,), 0.3))
    ours, theirs = (pyro_vae.elbo(m, guide, x, num_particles=4).to_dict() for m in (result.model, model))
    assert ours["reconstruction"] == theirs["reconstruction"]
    assert ours["kl"][top] != theirs["kl"][top]
    assert all(ours["kl"][name] == theirs["kl"][name] for name in ours["kl"] if name != top)


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_it_resumes_to_the_same_result(tmp_path, compile):
    torch.manual_seed(0)
    model = VAE(IMAGE, latent_dim=2, hidden_dims=(8,))
    guide, x = GaussianGuide(model, hidden_dims=(8,)), images(250)
    how = {**FAST, "batch_size": 50, "learning_rate": 0.05, "ema_decay": 0.9, "compile": compile}
    data = {"train": x[:200], "validation": x[200:]}
    straight = Gaussian(2)
    pyro_vae.fit_prior(model, guide, data, straight, epochs=4, **how)
    first = Gaussian(2)
    pyro_vae.fit_prior(model, guide, data, first, epochs=2, out=tmp_path / "p", **how)
    assert not torch.equal(first.loc, straight.loc)
    resumed = Gaussian(2)
    pyro_vae.fit_prior(model, guide, data, resumed, epochs=4, out=tmp_path / "p", resume=True, **how)
    assert torch.equal(resumed.loc, straight.loc) and torch.equal(resumed.raw, straight.raw)
    saved = load_file(tmp_path / "p" / "model.safetensors")
    assert set(saved) == {"model.prior.loc", "model.prior.raw"}  # nothing of the guide


def test_a_conditional_one_is_given_the_label():
    torch.manual_seed(0)
    model = ConditionalVAE(IMAGE, OneHot(3), latent_dim=2, hidden_dims=(8,))
    guide, y = ConditionalGuide(model, hidden_dims=(8,)), torch.arange(300) % 3
    data = {"x": images(300), "y": y}
    prior = PerClass(3, 2)
    result = pyro_vae.fit_prior(model, guide, data, prior, epochs=30, learning_rate=0.05, **FAST)
    q = pyro_vae.posterior_moments(model, guide, data)["z.mean"]
    means = torch.stack([q[y == k].mean(0) for k in range(3)])
    torch.testing.assert_close(prior.means.weight.detach(), means, atol=0.15, rtol=0)
    assert needed_to_generate(result.model) == ["y"]
    drawn = pyro_vae.sample(result.model, 600, batch={"y": torch.arange(600) % 3})["z"]
    torch.testing.assert_close(drawn[1::3].mean(0), prior.means.weight[1].detach(), atol=0.3, rtol=0)
    with pytest.raises(InputError, match="given y, which the model does not take"):
        vae = VAE(IMAGE, latent_dim=2, hidden_dims=(8,))
        pyro_vae.fit_prior(vae, GaussianGuide(vae, hidden_dims=(8,)), data["x"], prior, epochs=1, **FAST)


@pytest.mark.parametrize("classes", [2, 5])
def test_a_label_that_model_or_prior_does_not_know_has_no_number(classes):
    """It would have no features there, and a density all the same: what both accept is what is accepted."""
    both = min(classes, 3)

    def pair(prior=None):
        torch.manual_seed(0)
        model = ConditionalVAE(IMAGE, OneHot(3), latent_dim=2, hidden_dims=(8,), prior=prior)
        return model, ConditionalGuide(model, hidden_dims=(8,))

    def made():
        return MixtureDensityPrior((2,), OneHot(classes), num_components=2)

    data = {"x": images(12), "y": torch.arange(12) % both}
    model, guide = pair()
    fitted = pyro_vae.fit_prior(model, guide, data, made(), epochs=1, **FAST).model
    words = f"argument 'y' takes class labels from 0 to {both - 1}"
    for model in (pair(made())[0], fitted):
        assert pyro_vae.sample(model, 2, batch={"y": torch.tensor([0, both - 1])})["z"].shape == (2, 2)
        for label in (both, max(classes, 3) - 1):
            with pytest.raises(InputError, match=words):
                pyro_vae.sample(model, 2, batch={"y": torch.tensor([0, label])})
            with pytest.raises(InputError, match=words):
                pyro_vae.elbo(model, guide, {"x": images(2), "y": torch.tensor([0, label])})
    unknown = {"x": images(12), "y": torch.arange(12) % (both + 1)}
    model, guide = pair()
    with pytest.raises(InputError, match=f"from 0 to {min(2, both - 1)}"):
        pyro_vae.fit_prior(model, guide, unknown, made(), epochs=1, **FAST)
    with pytest.raises(InputError, match=r"labels from 0 to 2.* for the model, and vectors of 1 attribute"):
        pyro_vae.fit_prior(model, guide, data, MixtureDensityPrior((2,), Attributes(1)), epochs=1, **FAST)
    with pytest.raises(InputError, match=r"labels from 0 to 2.* for the model, and vectors of 1 attribute"):
        pair(MixtureDensityPrior((2,), Attributes(1)))


def test_functions_keep_what_they_have_learned():
    """pyro.param values, and a module behind an object: the model around them neither loses nor trains them."""

    class Box:
        decoder = nn.Linear(2, 3)
        encoder = nn.Linear(3, 2)

    box = Box()

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = box.decoder(z) + pyro.param("shift", torch.zeros(3))
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(box.encoder(x), pyro.param("s", torch.ones(2))).to_event(1))

    x = torch.randn(100, 3) + 4.0
    trained = pyro_vae.fit(model, guide, x, epochs=20, learning_rate=0.05, **FAST)
    shift, weight = trained.model.param("shift").clone(), box.encoder.weight.detach().clone()
    assert (shift > 0.3).all()
    before = pyro_vae.elbo(trained.model, trained.guide, x, num_particles=2).to_dict()
    result = pyro_vae.fit_prior(trained.model, trained.guide, x, Gaussian(2), epochs=20, learning_rate=0.05, **FAST)
    after = pyro_vae.elbo(result.model, result.guide, x, num_particles=2).to_dict()
    assert after["reconstruction"] == before["reconstruction"] and after["kl"]["z"] < before["kl"]["z"]
    assert torch.equal(trained.model.param("shift"), shift) and torch.equal(box.encoder.weight, weight)


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_a_vamp_prior_is_trained_through_the_frozen_guide(compile, caplog):
    torch.manual_seed(0)
    model = VAE(IMAGE, latent_dim=2, hidden_dims=(8,))
    guide, x = GaussianGuide(model, hidden_dims=(8,)), images(100)
    prior = VampPrior((2,), IMAGE, num_components=5).through(guide)
    kept = [p.detach().clone() for p in guide.parameters()]
    result = pyro_vae.fit_prior(model, guide, x, prior, epochs=5, learning_rate=0.05, compile=compile, **FAST)
    assert "eagerly" not in caplog.text
    assert all(torch.equal(p, q) for p, q in zip(guide.parameters(), kept, strict=True))
    assert not torch.allclose(prior.pseudo_inputs, prior.pseudo_inputs.clamp(0.05, 0.95).round())  # they have moved
    assert result.records[-1]["train/kl/z"] < result.records[0]["train/kl/z"]
    with torch.no_grad():
        loc, raw = guide.encoder(prior.pseudo_inputs).chunk(2, -1)
        q = diagonal_normal(torch.cat([loc, raw], -1), guide.min_scale)
        z = torch.randn(7, 2)
        expected = dist.Normal(q.loc, q.scale).log_prob(z[:, None]).sum(-1).logsumexp(-1) - math.log(5)
        torch.testing.assert_close(prior().log_prob(z), expected, atol=1e-4, rtol=1e-4)
    assert unwrapped(prior.guide) is guide
    assert pyro_vae.sample(result.model, 3)["z"].shape == (3, 2)
    again = pyro_vae.fit(result.model, result.guide, x, epochs=1, **FAST)  # the pair goes on together
    assert again.records


def test_a_vamp_prior_of_a_guide_that_draws_below_first_is_refused():
    model, guide, _ = biva()
    with pytest.raises(InputError, match="the guide draws 'z1_bu' before 'z2'"):
        pyro_vae.fit_prior(model, guide, images(20), VampPrior((2,), IMAGE, num_components=5), epochs=1, **FAST)
    model, guide, _ = ladder()
    result = pyro_vae.fit_prior(model, guide, images(20), VampPrior((2,), IMAGE, num_components=5), epochs=1, **FAST)
    assert pyro_vae.log_likelihood(result.model, guide, images(5), num_particles=3, progress=False).mean < 0


@pytest.mark.parametrize("start", [0.0, 5.0])
def test_a_prior_that_is_worse_than_the_one_before_is_told(start, caplog):
    """Exact posteriors of the model's own data are N(0, I) on average; a Gaussian that starts far off is not there."""
    ppca = PPCA(data_dim=6, latent_dim=2, dtype=torch.float32)
    x, prior = ppca.sample(400), Gaussian(2)
    with torch.no_grad():
        prior.loc.fill_(start)
    caplog.set_level("INFO")
    pyro_vae.fit_prior(ppca.model, ppca.exact_guide, x, prior, epochs=1, learning_rate=1e-3, **FAST)
    (told,) = [r for r in caplog.records if "under the new prior" in r.message]
    means = ppca.posterior_mean(x)
    exact = dist.MultivariateNormal(means, ppca.posterior_covariance)

    def kl(loc, tril):
        p = dist.MultivariateNormal(loc, scale_tril=tril).expand(exact.batch_shape)
        return torch.distributions.kl_divergence(exact, p).mean().item()

    now, before = kl(prior.loc.detach(), prior.tril.detach()), kl(torch.zeros(2), torch.eye(2))
    assert (told.levelname == "WARNING") == (start > 0)
    numbers = [float(word) for word in told.message.split() if word.replace(".", "").isdigit()]
    assert numbers == pytest.approx([now, before], rel=0.03)
    assert numbers[0] - numbers[1] == pytest.approx(now - before, abs=0.003 + 0.02 * start)  # at the same draws


def test_a_prior_may_start_at_the_draws_of_the_guide(fitted):
    """Asked for, it is given draws of the exact posteriors before the first step; the random state stays."""
    ppca, x, _, _ = fitted

    class Seen(Gaussian):
        draws = None

        def start_at(self, z):
            self.draws = z

    state = torch.get_rng_state()
    asked, plain = Seen(2), Seen(2)
    one = {"epochs": 1, "learning_rate": 1e-6} | FAST
    torch.set_rng_state(state)
    pyro_vae.fit_prior(ppca.model, ppca.exact_guide, x, plain, **one)
    pyro_vae.fit_prior(ppca.model, ppca.exact_guide, x, asked, start_at_draws=True, **one)
    assert torch.equal(torch.get_rng_state(), state)
    assert plain.draws is None and asked.draws.shape == (2000, 2)
    means = ppca.posterior_mean(x)
    covariance = torch.cov(means.T) + ppca.posterior_covariance
    torch.testing.assert_close(asked.draws.mean(0), means.mean(0), atol=0.08, rtol=0)
    torch.testing.assert_close(torch.cov(asked.draws.T), covariance, atol=0.25, rtol=0)
