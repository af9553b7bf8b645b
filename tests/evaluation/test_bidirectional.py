"""Bounds from both sides, held against exact likelihoods and against one another."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA

from pyro_vae.errors import InputError
from pyro_vae.evaluation import bidirectional, generate
from pyro_vae.evaluation.annealing.ais import Annealing
from pyro_vae.evaluation.annealing.chains import backwards, temperatures, tune
from pyro_vae.evaluation.annealing.path import AnnealedPath, Densities
from pyro_vae.evaluation.annealing.results import BidirectionalBounds, Settings
from pyro_vae.programs.session import evaluating


def errors(values):
    return (values.std() / math.sqrt(len(values))).item()


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_mean_of_one_over_the_backward_weight_is_one_over_the_likelihood(vectorize):
    """One x many times over, with z from its posterior: an estimate without bias, however few the temperatures.

    The guide is narrower than the posterior, else 1 / w has no variance to judge the mean by.
    """
    ppca = PPCA(data_dim=3, latent_dim=2, noise=1.0)
    x = ppca.sample(1).expand(4000, 3)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    z = ppca.posterior_mean(x) + noise @ ppca.posterior_tril.T
    beta = temperatures(5).tolist()
    with evaluating(ppca.model, ppca.rough_guide(0.7, 0.3), x, 0, vectorize=vectorize) as (pair, split):
        densities = AnnealedPath(pair, "guide", 2).on(split.batch(slice(0, 4000)))
        sizes = tune(densities, beta[1:], 2, lambda: None)
        log_w = backwards(densities, densities.at_values({"z": z}), beta, sizes, 2, lambda: None).log_w
    ratio = (ppca.log_prob(x) - log_w).exp().mean(0)  # (4000,), of mean one
    assert abs(ratio.mean() - 1) < 4 * errors(ratio) and errors(ratio) < 0.03


def bidirectional_and_exact(latent_dim, num_data, **options):
    """Bounds under the best mean-field guide of a linear-Gaussian model, and exact log p(x) of the same data."""
    ppca = PPCA(data_dim=2 * latent_dim, latent_dim=latent_dim, dtype=torch.float32)
    variance = 1 / torch.linalg.inv(ppca.posterior_covariance).diagonal()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(ppca.posterior_mean(x), variance.sqrt()).to_event(1))

    result = bidirectional(ppca.model, guide, num_data, seed=4, **options)
    exact = ppca.log_prob(generate.sample(ppca.model, num_data, seed=4)["x"])
    for low, high in ((result.lower, exact), (exact, result.upper)):
        assert (high - low).mean() > -4 * errors(high - low)
    assert not result.warnings
    return result, exact


@pytest.mark.parametrize("latent_dim", [2, 10])
def test_the_exact_likelihood_lies_between(latent_dim):
    result, _ = bidirectional_and_exact(latent_dim, 50, num_temperatures=150)
    assert result.gap[0] < 0.1
    told = result.to_dict()
    assert told["gap"] == pytest.approx(told["upper"] - told["lower"]) and told["num_data"] == 50


@pytest.mark.slow
@pytest.mark.parametrize("latent_dim", [2, 10, 50])
def test_the_gap_at_the_default_settings(latent_dim):
    result, exact = bidirectional_and_exact(latent_dim, 100)
    for side, values in (("lower - exact", result.lower - exact), ("upper - exact", result.upper - exact)):
        print(f"{latent_dim} dimensions, {side}: {values.mean():.4f} +- {errors(values):.4f}")
    print(f"gap {result.gap[0]:.4f} +- {result.gap[1]:.4f}")
    assert result.gap[0] < 0.05


def test_chunks_of_data_have_their_own_latents(monkeypatch):
    """Backwards from another datum's z the chains would end far above log p(x)."""
    monkeypatch.setattr(Annealing, "_chunk_size", lambda *_: 7)
    ppca = PPCA(data_dim=4, latent_dim=2, noise=0.05)
    result = bidirectional(ppca.model, ppca.exact_guide, 20, num_temperatures=2, num_chains=2, seed=4)
    exact = ppca.log_prob(generate.sample(ppca.model, 20, seed=4)["x"])
    torch.testing.assert_close(result.upper, exact)  # the guide is the posterior: all weights are p(x)
    torch.testing.assert_close(result.lower, exact)
    points = []
    monkeypatch.setattr(Densities, "at_values", lambda self, z: points.append(z["z"]) or self.draw())
    bidirectional(ppca.model, ppca.exact_guide, 20, num_temperatures=2, num_chains=2, seed=4)
    assert torch.equal(torch.cat(points), generate.sample(ppca.model, 20, seed=4)["z"])


def test_a_hundred_random_models_keep_the_order():
    """x_i ~ N(A tanh(B z), s) with networks drawn at random for each model, all of them at once, as context."""
    models, each, d, h, n = 100, 30, 3, 8, 5
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(models, *shape, generator=generator).repeat_interleave(each, 0)

    context = {"a": 2 * drawn(n, h) / math.sqrt(h), "b": 2 * drawn(h, d), "s": 0.1 + 0.3 * drawn().abs()}
    context["m"], context["t"] = 0.5 * drawn(d), 0.2 + 0.5 * drawn(d).abs()  # of arbitrary guides

    def model(x=None, *, a, b, s, num_samples=1):
        with pyro.plate("data", len(a)):
            z = pyro.sample("z", dist.StudentT(5.0, torch.zeros(d), 1.0).to_event(1))
            features = torch.einsum("nij,...nj->...ni", b, z).tanh()
            loc = torch.einsum("nij,...nj->...ni", a, features)
            return pyro.sample("x", dist.Normal(loc, s[:, None]).to_event(1), obs=x)

    def guide(x, *, m, t):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(3.0, m, t).to_event(1))

    result = bidirectional(
        model, guide, models * each, batch=context, num_temperatures=20, num_leapfrog=2, num_chains=4
    )
    gaps = (result.upper - result.lower).reshape(models, each)
    error = gaps.std(1) / math.sqrt(each)
    assert (gaps.mean(1) > -4 * error).all()
    assert gaps.mean() > 4 * errors(gaps.flatten())  # with twenty temperatures there is something to see


def test_warnings():
    ppca = PPCA(data_dim=12, latent_dim=6, dtype=torch.float32)
    result = bidirectional(ppca.model, ppca.rough_guide(4.0, 6.0), 20, num_temperatures=2)
    assert any("nearly all the weight" in told and "forwards" in told for told in result.warnings)
    result.upper = result.lower - 1 - torch.linspace(0, 0.1, 20)
    assert any("below the lower one" in told for told in result.warnings)


def test_a_mode_that_the_guide_does_not_know():
    """One z in twenty is negative, and x tells |z| alone: chains from the guide never get there."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            modes = dist.Categorical(torch.tensor([0.95, 0.05]))
            z = pyro.sample("z", dist.MixtureSameFamily(modes, dist.Normal(torch.tensor([3.0, -3.0]), 0.3)))
            return pyro.sample("x", dist.Normal(z.abs(), 0.1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.1))

    result = bidirectional(model, guide, 100, num_temperatures=30, seed=2)
    lost = generate.sample(model, 100, seed=2)["z"] < 0
    assert 0 < lost.sum() <= 10
    told = result.to_dict()
    assert (result.gaps[lost] > 3).all() and (result.gaps[~lost] < 0.5).all()
    assert told["gap_largest"] == result.gaps.max() and abs(told["gap_median"]) < 0.05
    assert any(f"{lost.sum()} of 100 data have a gap of more than 3 nats" in line for line in result.warnings)


def test_each_direction_has_its_own_warnings():
    """Backwards it is 1 / w of which one chain may have all, and the second row of acceptances."""
    even, settings = torch.zeros(4, 10).double(), Settings(4, 9, 3, "sigmoid", "guide")
    uneven = even.clone()
    uneven[0] = -30.0  # 1 / w: nearly all of the sum; w: a fourth less
    calm, stuck = torch.full((10,), 0.65).double(), torch.full((10,), 0.1).double()
    told = BidirectionalBounds(even - 100, uneven, torch.stack([calm, calm]), settings).warnings
    assert len(told) == 1 and told[0].startswith("one of the chains backwards has nearly all the weight in 10 of 10")
    assert BidirectionalBounds(even, -uneven, torch.stack([calm, calm]), settings).warnings == []
    crossed = BidirectionalBounds(even, even - 1, torch.stack([calm, calm]), settings)  # by the same number everywhere
    assert crossed.warnings == ["the upper bound is below the lower one by 1 nats, with a standard error of 0"]
    told = BidirectionalBounds(even, even, torch.stack([calm, stuck]), settings).warnings
    assert len(told) == 1 and told[0].startswith("chains backwards of 10 of 10 data moved in less than 30%")


def test_bad_input():
    ppca = PPCA(dtype=torch.float32)
    guide = ppca.rough_guide()
    with pytest.raises(InputError, match="num_data must be a positive integer"):
        bidirectional(ppca.model, guide, 0)
    with pytest.raises(InputError, match="num_temperatures"):
        bidirectional(ppca.model, guide, 2, num_temperatures=0)

    def needs_data(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    with pytest.raises(InputError, match="cannot be run without data"):
        bidirectional(needs_data, guide, 2)

    def other_name(y=None, num_samples=1):
        with pyro.plate("data", num_samples):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(InputError, match="'x'"):
        bidirectional(other_name, guide, 2)
