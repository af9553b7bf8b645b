"""Pareto k-hat: against known tails, a plain implementation, ArviZ, and guides that are known to be good or bad."""

import importlib
import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA

from pyro_vae.evaluation import log_likelihood
from pyro_vae.evaluation.importance import largest, pareto_k, pareto_k_of_tail, tail_length
from pyro_vae.evaluation.results import LogLikelihood


def plain_fit(excess):
    """Zhang & Stephens 2009, section 3, for one sample, in plain numpy."""
    x = np.sort(np.asarray(excess, dtype=float))
    n = len(x)
    points = 30 + int(math.sqrt(n))
    theta = np.empty(points)
    for j in range(1, points + 1):
        theta[j - 1] = 1 / x[-1] + (1 - math.sqrt(points / (j - 0.5))) / (3 * x[int(n / 4 + 0.5) - 1])
    profile = np.empty(points)
    for j, t in enumerate(theta):
        k = np.mean(np.log1p(-t * x))
        profile[j] = n * (math.log(-t / k) - k - 1)
    weight = np.array([1 / np.exp(profile - p).sum() for p in profile])
    return np.mean(np.log1p(-(theta * weight).sum() * x))


def plain_pareto_k(log_weights):
    """k-hat of one datum's weights: tail, excesses over the cutoff, fit, prior."""
    w = np.sort(np.exp(log_weights - log_weights.max()))
    m = math.ceil(min(len(w) / 5, 3 * math.sqrt(len(w))))
    tail = w[-m:] - w[-m - 1]
    tail = tail[tail > 0]
    return (len(tail) * plain_fit(tail) + 5) / (len(tail) + 10)


def pareto_weights(k, num_particles, num_data, seed=0):
    """Log-weights (K, N) of a generalized Pareto distribution with shape k, by inversion, far from 0 in the log."""
    uniform = torch.rand(num_particles, num_data, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return ((uniform.pow(-k) - 1) / k).log() - 300


# ------------------------------------------------------------------ known tails
@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_known_tails_are_recognized(k):
    """The excesses over any cutoff are again generalized Pareto of the same k; 500 fits of M = 300 (K = 10,000).

    The maximum likelihood estimate has the standard deviation (1 + k) / sqrt(M); the prior draws it to 1/2.
    """
    found = pareto_k(pareto_weights(k, 10_000, 500))
    m = 300
    expected, deviation = (m * k + 5) / (m + 10), (1 + k) / math.sqrt(m)
    assert found.dtype == torch.float64 and found.shape == (500,)
    assert found.mean().item() == pytest.approx(expected, abs=4 * deviation / math.sqrt(500) + 0.01)
    assert found.std().item() == pytest.approx(deviation, rel=0.15)


def test_bounded_weights_have_a_negative_shape():
    """Uniform weights: the excesses are uniform, k = -1."""
    log_w = torch.rand(10_000, 50, generator=torch.Generator().manual_seed(0)).double().log()
    assert pareto_k(log_w).mean().item() == pytest.approx((-300 + 5) / 310, abs=0.05)


# ------------------------------------------------------------------ the same numbers as others'
@pytest.mark.parametrize("num_particles", [21, 25, 40, 200, 225, 1001, 5000])
def test_a_plain_implementation_says_the_same(num_particles):
    log_w = torch.cat([pareto_weights(k, num_particles, 6, seed=3) for k in (0.1, 0.7, 1.4)], 1)
    log_w = torch.cat([log_w, torch.randn(num_particles, 6, generator=torch.Generator().manual_seed(1)) * 3], 1)
    expected = [plain_pareto_k(column) for column in log_w.T.numpy()]
    np.testing.assert_allclose(pareto_k(log_w), expected, rtol=1e-7, atol=1e-9)


def test_ties_leave_the_tail():
    """Rounded weights: those equal to the cutoff are no excesses, and each datum's tail has a length of its own."""
    log_w = pareto_weights(0.6, 1000, 12).round(decimals=1)
    log_w[:, 0] = torch.linspace(0.1, 0.9, 5).repeat(200)  # the largest weight fills the whole tail
    log_w[:, 1] = 0.0
    log_w[:4, 1] = torch.arange(1.0, 5.0)
    log_w[:, 2] = 0.0
    log_w[:5, 2] = torch.arange(1.0, 6.0)
    found = pareto_k(log_w)
    assert found[:2].isnan().all()
    np.testing.assert_allclose(found[2:], [plain_pareto_k(column) for column in log_w.T.numpy()[2:]], rtol=1e-7)


def test_arviz_says_the_same():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ announces its next version
        arviz = pytest.importorskip("arviz")
    for num_particles in (30, 500, 5000):
        log_w = torch.cat([pareto_weights(k, num_particles, 20) for k in (0.2, 0.5, 0.9)], 1)
        expected = arviz.psislw(log_w.T.numpy().copy())[1]
        np.testing.assert_allclose(pareto_k(log_w), expected, rtol=1e-6)


# ------------------------------------------------------------------ no tail
@pytest.mark.parametrize("num_particles", [1, 2, 5, 20])
def test_too_few_particles_have_no_tail(num_particles):
    assert pareto_k(pareto_weights(0.5, num_particles, 3)).isnan().all()
    assert tail_length(20) == 4 and tail_length(21) == 5 and tail_length(5000) == 213


def test_weights_that_are_equal_zero_or_no_numbers():
    some = pareto_weights(0.5, 100, 7)
    some[:, 0] = -250.0
    some[:, 1] = -250 + 1e-5 * torch.randn(100)
    some[:, 2] = -torch.inf
    some[0, 3] = torch.nan
    some[0, 4] = torch.inf
    some[:90, 5] = -torch.inf  # fewer weights than the tail is long: the others are the tail
    found = pareto_k(some)
    assert found[:5].isnan().all() and found[5:].isfinite().all()


# ------------------------------------------------------------------ chunks
def test_the_largest_of_chunks_are_the_largest_of_all():
    log_w = pareto_weights(0.5, 1000, 4)
    tail = None
    for start, end in [(0, 3), (3, 400), (400, 401), (401, 1000)]:
        tail = largest(log_w[start:end], 1000, tail)
    assert torch.equal(tail, log_w.sort(0, descending=True).values[: tail_length(1000) + 1])
    assert torch.equal(pareto_k_of_tail(tail), pareto_k(log_w))


def test_log_likelihood_finds_it_over_chunks(monkeypatch):
    """The model sees the draws; k-hat is computed again from the very ones by the plain implementation."""
    ppca = PPCA(dtype=torch.float32)
    x, seen = ppca.sample(1), []

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            seen.append(z.detach().reshape(-1, 3).clone())
            pyro.sample("x", dist.Normal(z @ ppca.weight.T + ppca.bias, ppca.noise).to_event(1), obs=x)

    monkeypatch.setattr(importlib.import_module("pyro_vae.evaluation.importance"), "CPU_CHUNK", 3000)
    k = 101
    result = log_likelihood(model, ppca.rough_guide(), x, num_particles=k)
    chunks = math.ceil(k / len(seen[-1]))
    assert chunks > 2
    z = torch.cat(seen[-chunks:])[:k].double()
    mean, scale = ppca.posterior_mean(x).double(), ppca.posterior_covariance.diagonal().sqrt().double()
    log_w = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_w += dist.Normal(z @ ppca.weight.T.double() + ppca.bias, ppca.noise).log_prob(x.double()).sum(-1)
    log_w -= dist.Normal(mean + 0.5 * scale, 2.5 * scale).log_prob(z).sum(-1)
    assert result.pareto_k.item() == pytest.approx(plain_pareto_k(log_w.numpy()), abs=1e-3)


# ------------------------------------------------------------------ good and bad guides
def test_a_narrow_guide_is_told_from_a_wide_one():
    """With u ~ N(0, s^2) in units of the posterior, log w = const + (1/s^2 - 1) |u|^2 / 2: for s < 1 the weights have
    moments up to 1 / (1 - s^2) only, k = 1 - s^2; for s > 1 they are bounded.
    """
    ppca = PPCA()
    x = ppca.sample(100)
    narrow = log_likelihood(ppca.model, ppca.rough_guide(stretch=0.2, shift=0.0), x, num_particles=5000)
    wide = log_likelihood(ppca.model, ppca.rough_guide(stretch=1.5, shift=0.0), x, num_particles=5000)
    assert narrow.pareto_k.mean().item() == pytest.approx(0.96, abs=0.1)
    assert (narrow.pareto_k > 0.7).double().mean() > 0.9 and (wide.pareto_k < 0).all()
    assert (narrow.per_datum - ppca.log_prob(x)).mean() < -1, "the bound that is warned of is far off"
    assert (wide.per_datum - ppca.log_prob(x)).mean().abs() < 0.02
    above = int((narrow.pareto_k > 0.7).sum())
    told = narrow.to_dict()
    assert told["pareto_k_max"] == narrow.pareto_k.max().item() and told["pareto_k_above"] == above / 100
    assert len(told["warnings"]) == 1 and f"above 0.7 for {above} of 100 data" in told["warnings"][0]
    assert wide.to_dict()["warnings"] == [] and wide.pareto_k_above == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_posterior_as_guide_raises_no_alarm(dtype):
    """Weights that differ by rounding only."""
    ppca = PPCA(dtype=dtype)
    result = log_likelihood(ppca.model, ppca.exact_guide, ppca.sample(50), num_particles=500)
    assert result.pareto_k.isnan().all()
    assert (result.pareto_k_max, result.pareto_k_above, result.warnings) == (None, None, [])


def test_a_guide_that_draws_nothing_raises_no_alarm():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(z.float(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Delta(x.long()))

    result = log_likelihood(model, guide, torch.zeros(3), num_particles=5000)
    assert result.num_particles == 1 and result.pareto_k.isnan().all()
    assert result.to_dict()["pareto_k_max"] is None and result.to_dict()["warnings"] == []


def test_data_without_a_k_hat_do_not_count():
    some = torch.tensor([0.1, torch.nan, 0.9, 0.2, 0.3]).double()
    result = LogLikelihood(torch.zeros(5), torch.ones(5), some, 100, 1)
    assert result.pareto_k_max == pytest.approx(0.9) and result.pareto_k_above == 0.25
