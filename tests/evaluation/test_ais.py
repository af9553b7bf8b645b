"""Annealed importance sampling, held against exact likelihoods."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA
from unbiased import check_unbiased

from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais
from pyro_vae.evaluation.annealing.chains import temperatures, transition
from pyro_vae.evaluation.annealing.path import AnnealedPath
from pyro_vae.programs.session import evaluating


# ------------------------------------------------------------------------------ the weights' mean is p(x)
@pytest.mark.parametrize("start", ["guide", "prior"])
@pytest.mark.parametrize("vectorize", [True, False])
def test_the_mean_weight_is_the_likelihood(start, vectorize):
    ppca = PPCA(data_dim=3, latent_dim=2, noise=1.0)
    x = ppca.sample(4)
    check_unbiased(ppca.model, ppca.rough_guide(), x, ppca.log_prob(x), start=start, vectorize=vectorize)


def test_a_guide_whose_sites_depend_on_one_another():
    """z2 ~ N(0, 1), z1 | z2 ~ N(z2, 1), x | z1 ~ N(z1, 1): x ~ N(0, 3)."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            return pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.6 * x, 1.0))
            pyro.sample("z2", dist.Normal(0.5 * z1 + 0.2, 0.8))

    x = torch.tensor([-2.0, 0.0, 1.5])
    check_unbiased(model, guide, x, dist.Normal(0.0, math.sqrt(3)).log_prob(x).double())


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_constrained_latents_in_plates(start):
    """Rates ~ Gamma(2, 1) in a plate of two, with three counts each: a negative binomial, in closed form."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1), pyro.plate("inner", 2, dim=-2):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            counts = None if x is None else x.transpose(0, 1)  # (2, N, 3)
            pyro.sample("x", dist.Poisson(rate[..., None].expand(*rate.shape, 3)).to_event(1), obs=counts)

    def guide(x):
        total = x.sum(-1).T  # (2, N)
        with pyro.plate("data", len(x), dim=-1), pyro.plate("inner", 2, dim=-2):
            pyro.sample("rate", dist.LogNormal(((total + 1) / 4).log(), 0.7))

    x = torch.tensor([[[0.0, 1, 2], [3, 3, 1]], [[0, 0, 0], [1, 4, 0]]])  # (N, 2, 3)
    s = x.double().sum(-1)
    exact = torch.lgamma(s + 2) - (s + 2) * math.log(4.0) - torch.lgamma(x.double() + 1).sum(-1)
    check_unbiased(model, guide, x, exact.sum(-1), start=start)


def test_latents_in_an_interval():
    """p ~ Beta(2, 3), 5 coins: the beta-binomial likelihood of a sequence."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            p = pyro.sample("p", dist.Beta(2.0, 3.0))
            return pyro.sample("x", dist.Bernoulli(p[..., None].expand(*p.shape, 5)).to_event(1), obs=x)

    def guide(x):
        heads = x.sum(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("p", dist.Uniform(torch.zeros_like(heads), 1.0))

    x = torch.tensor([[0.0, 0, 0, 0, 1], [1, 1, 1, 0, 1]])
    heads = x.double().sum(-1)

    def log_beta(a, b):
        return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)

    prior = log_beta(torch.tensor(2.0).double(), torch.tensor(3.0).double())
    check_unbiased(model, guide, x, log_beta(2 + heads, 3 + 5 - heads) - prior)


# ------------------------------------------------------------------------------ tightness
@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_many_temperatures_are_tight_where_importance_weights_are_not(schedule):
    ppca = PPCA(data_dim=12, latent_dim=6, dtype=torch.float32)
    x = ppca.sample(20)
    guide = ppca.rough_guide(stretch=3.0, shift=2.0)
    loose = ais(ppca.model, guide, x, num_temperatures=1, num_chains=16)
    tight = ais(ppca.model, guide, x, num_temperatures=150, num_leapfrog=3, schedule=schedule)
    lacks_much, lacks = ppca.log_prob(x) - loose.per_datum, ppca.log_prob(x) - tight.per_datum
    assert lacks_much.mean() > 1
    assert lacks.mean().abs() < 0.05 * lacks_much.mean() + 4 * lacks.std() / math.sqrt(20)
    assert lacks.std() < 0.25 * lacks_much.std()
    assert 0.5 < tight.acceptance.mean() < 0.8
    assert tight.settings.gradients == 16 * (149 * 3 + 1) and not tight.warnings


def test_with_one_temperature_it_is_the_importance_weighted_bound():
    ppca = PPCA(data_dim=3, latent_dim=2)
    x = ppca.sample(3)
    result = ais(ppca.model, ppca.exact_guide, x, num_temperatures=1, num_chains=4)
    torch.testing.assert_close(result.log_weights, ppca.log_prob(x).expand(4, 3))  # the guide is the posterior


def test_schedules():
    for name in ("sigmoid", "linear"):
        beta = temperatures(10, name)
        assert len(beta) == 11 and beta[0] == 0 and beta[-1] == 1 and (beta.diff() > 0).all()
        torch.testing.assert_close(beta, 1 - beta.flip(0))
    assert (temperatures(10, "linear").diff() - 0.1).abs().max() < 1e-12
    own = [0.0, 0.2, 1.0]
    assert temperatures(2, own).tolist() == pytest.approx(own)
    s = [1 / (1 + math.exp(-4 * (2 * t / 10 - 1))) for t in range(11)]
    by_hand = [(v - s[0]) / (s[-1] - s[0]) for v in s]
    assert temperatures(10).tolist() == pytest.approx(by_hand)


# ------------------------------------------------------------------------------ transitions
def test_a_transition_is_hamiltonian_monte_carlo():
    """Against leapfrog steps written out for a Gaussian, in float64."""
    ppca = PPCA(data_dim=3, latent_dim=2)
    x = ppca.sample(2)
    with evaluating(ppca.model, ppca.rough_guide(), x, 0) as (pair, split):
        densities = AnnealedPath(pair, "guide", 5).on(split.batch(slice(0, 2)))
        point = densities.draw()
        step, beta = torch.full((2, 2), 0.3, dtype=torch.float64), 0.4
        torch.manual_seed(3)
        new, accepted = transition(densities.at, point, beta, step, 3)
        torch.manual_seed(3)
        p = torch.randn_like(point.u)

    def log_f(u):
        scale = 2.5 * ppca.posterior_covariance.diagonal().sqrt()
        mean = ppca.posterior_mean(x) + 0.5 * scale / 2.5
        log_q = dist.Normal(mean, scale).log_prob(u).sum(-1)
        log_x = dist.Normal(u @ ppca.weight.T + ppca.bias, ppca.noise).log_prob(x).sum(-1)
        return (1 - beta) * log_q + beta * (log_x + dist.Normal(0.0, 1.0).log_prob(u).sum(-1))

    def slope(u):
        u = u.detach().requires_grad_()
        return torch.autograd.grad(log_f(u).sum(), u)[0]

    u, momentum = point.u, p
    for _ in range(3):
        momentum = momentum + 0.15 * slope(u)
        u = u + 0.3 * momentum
        momentum = momentum + 0.15 * slope(u)
    ratio = log_f(u) - 0.5 * momentum.square().sum(-1) - log_f(point.u) + 0.5 * p.square().sum(-1)
    torch.testing.assert_close(accepted, ratio.clamp(max=0).exp())
    moved = (new.u != point.u).any(-1)
    torch.testing.assert_close(new.u[moved], u[moved])
    torch.testing.assert_close(new.log_density(beta), torch.where(moved, log_f(u), log_f(point.u)))


def test_recorded_chains_are_the_eager_ones():
    ppca = PPCA(data_dim=3, latent_dim=2, dtype=torch.float32)
    x = ppca.sample(3)
    for guide, vectorize in itertools.product((ppca.rough_guide(), _chained_guide(ppca)), (True, False)):
        options = {"num_temperatures": 8, "num_chains": 4, "vectorize": vectorize}
        eager, recorded = (ais(ppca.model, guide, x, compile=how, **options) for how in ("off", "graph"))
        torch.testing.assert_close(recorded.log_weights, eager.log_weights, rtol=1e-4, atol=1e-4)


def _chained_guide(ppca):
    """A guide with a factor, which cannot be drawn from again."""

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(ppca.posterior_mean(x), 0.8).to_event(1))
            pyro.factor("nothing", 0.0 * z.sum(-1), has_rsample=True)

    return guide


def test_the_random_state_and_modes_are_left_alone():
    ppca = PPCA(dtype=torch.float32)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b = (ais(ppca.model, ppca.rough_guide(), ppca.sample(2), num_temperatures=3, seed=s) for s in (1, 1))
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(a.log_weights, b.log_weights)


def test_a_small_budget_makes_small_chunks_and_a_tiny_one_is_refused():
    ppca = PPCA(data_dim=3, latent_dim=2, noise=1.0)
    x = ppca.sample(5)
    check_unbiased(ppca.model, ppca.rough_guide(), x, ppca.log_prob(x), num_chains=1000, memory_budget=10**6, limit=0.2)
    with pytest.raises(InputError, match=r"memory_budget 10000 bytes is too small: 1000 chains"):
        ais(ppca.model, ppca.rough_guide(), x, num_chains=1000, memory_budget=10_000)


# ------------------------------------------------------------------------------ bad input
def _one(site, q=None):
    """A model with one latent site and a guide that draws it."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", site)
            return pyro.sample("x", dist.Normal(z.to(torch.float32), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", site if q is None else q)

    return model, guide


@pytest.mark.parametrize(
    ("site", "q", "message"),
    [
        (dist.Bernoulli(0.5), None, r"'z' is discrete \(Bernoulli\).*log_likelihood"),
        (dist.Poisson(2.0), None, r"'z' is discrete \(Poisson\)"),
        (dist.Delta(torch.tensor(1.0)), None, r"'z' is a point mass"),
        (dist.Normal(0.0, 1.0), dist.Uniform(-1.0, 1.0), r"'z': the guide's support.*does not cover.*start=\"prior\""),
        (dist.Normal(0.0, 1.0), dist.HalfNormal(1.0), r"'z': the guide's support"),
        (dist.Uniform(0.0, 2.0), dist.Uniform(0.5, 2.0), r"'z': the guide's support"),
    ],
)
def test_latents_that_cannot_be_annealed(site, q, message):
    with pytest.raises(InputError, match=message):
        ais(*_one(site, q), torch.randn(3), num_temperatures=4)


def test_from_the_prior_a_guide_may_be_anything():
    model, guide = _one(dist.Normal(0.0, 1.0), dist.Uniform(-1.0, 1.0))
    x = torch.tensor([0.5, -1.0])
    check_unbiased(model, guide, x, dist.Normal(0.0, math.sqrt(2)).log_prob(x).double(), start="prior")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_temperatures": 0}, "num_temperatures must be a positive integer, got 0"),
        ({"num_chains": 0}, "num_chains must be a positive integer"),
        ({"num_leapfrog": -1}, "num_leapfrog must be a positive integer"),
        ({"schedule": "sigmod"}, "unknown schedule 'sigmod'. Did you mean 'sigmoid'"),
        ({"schedule": [0.0, 0.5, 0.9], "num_temperatures": 2}, "exponents that rise from 0 to 1"),
        ({"schedule": [0.0, 1.0], "num_temperatures": 2}, r"num_temperatures \+ 1 = 3 exponents"),
        ({"start": "posterior"}, "unknown start 'posterior'"),
        ({"compile": "ful"}, "compile"),
    ],
)
def test_bad_options(options, message):
    ppca = PPCA(dtype=torch.float32)
    with pytest.raises(InputError, match=message):
        ais(ppca.model, ppca.rough_guide(), ppca.sample(2), **options)


def test_models_without_latents_and_latents_of_all_data():
    def nothing(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(InputError, match="no latent site"):
        ais(nothing, lambda x: None, torch.randn(3))

    def shared(x=None, num_samples=1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", num_samples if x is None else len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(InputError, match="no latent site"):  # but for that one, which is held
        ais(shared, lambda x: pyro.sample("z", dist.Normal(0.0, 1.0)), torch.randn(3))


def test_a_site_of_the_guide_alone():
    model, _ = _one(dist.Normal(0.0, 1.0))

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(a, 1.0))

    with pytest.raises(InputError, match=r"'a' is the guide's alone.*start=\"prior\""):
        ais(model, guide, torch.randn(3))
