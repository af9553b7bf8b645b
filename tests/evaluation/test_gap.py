"""The ELBO's gap and its parts, held against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import likelihood_gap, refine

PPCA_OF = {"data_dim": 5, "latent_dim": 3, "noise": 0.7, "dtype": torch.float32}


def best_mean_field(ppca, x):
    """The ELBO of the best diagonal Gaussian: the posterior's mean, one over its precisions."""
    scale = torch.linalg.inv(ppca.posterior_covariance).diagonal() ** -0.5
    return ppca.elbo(x, ppca.posterior_mean(x), scale)[0]


def rough(ppca, x, stretch=1.5, shift=0.5):
    scale = ppca.posterior_covariance.diagonal().sqrt()
    return ppca.elbo(x, ppca.posterior_mean(x) + shift * scale, stretch * scale)[0]


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_refinement_finds_the_best_of_the_family(compile):
    ppca = PPCA(**PPCA_OF)
    x = ppca.sample(6)
    result = refine(ppca.model, ppca.rough_guide(1.5, 0.5), x, num_steps=400, num_particles=4000, compile=compile)
    torch.testing.assert_close(result.amortized.float(), rough(ppca, x), rtol=0, atol=0.2)
    torch.testing.assert_close(result.refined.float(), best_mean_field(ppca, x), rtol=0, atol=0.08)
    assert result.gain[0] == pytest.approx((best_mean_field(ppca, x) - rough(ppca, x)).mean().item(), abs=0.1)


def test_a_full_covariance_reaches_the_likelihood():
    ppca = PPCA(**PPCA_OF)
    x = ppca.sample(4)

    def guide(x):
        with pyro.plate("data", len(x)):
            tril = torch.eye(3).expand(len(x), 3, 3)
            pyro.sample("z", dist.MultivariateNormal(torch.zeros(len(x), 3), scale_tril=tril))

    result = refine(ppca.model, guide, x, num_steps=800, learning_rate=0.05)
    torch.testing.assert_close(result.refined, ppca.log_prob(x), rtol=0, atol=0.03)


def test_sites_that_depend_on_one_another_keep_doing_so():
    """z2 ~ N(0, 1), z1 ~ N(z2, 1), x ~ N(z1, 1); the posterior z2 | z1 ~ N(z1 / 2, 1 / 2) needs the dependence."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            return pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.0 * x, 1.0))
            pyro.sample("z2", dist.Normal(0.5 * z1 + 0.4, 1.0))

    x = torch.tensor([-1.0, 2.0])
    result = refine(model, guide, x, num_steps=600, learning_rate=0.05)
    torch.testing.assert_close(result.refined.float(), dist.Normal(0.0, math.sqrt(3)).log_prob(x), rtol=0, atol=0.02)


def test_the_parts_are_those_of_the_closed_forms():
    ppca = PPCA(**PPCA_OF)
    x = ppca.sample(10)
    result = likelihood_gap(
        ppca.model,
        ppca.rough_guide(1.5, 0.5),
        x,
        particles=(1, 100),
        annealing_options={"num_temperatures": 100},
        refine_options={"num_steps": 300},
    )
    amortization = (best_mean_field(ppca, x) - rough(ppca, x)).mean().item()
    approximation = (ppca.log_prob(x) - best_mean_field(ppca, x)).mean().item()
    assert result.amortization[0] == pytest.approx(amortization, abs=0.15)
    assert result.approximation[0] == pytest.approx(approximation, abs=0.1)
    told = result.to_dict()
    whole = told["amortization_gap"] + told["approximation_gap"]
    rows = {row["bound"]: row for row in told["bounds"]}
    assert list(rows) == ["ELBO", "ELBO, refined", "K = 1", "K = 100"]
    assert rows["ELBO"]["missing"] == pytest.approx(whole)
    assert rows["K = 100"]["missing"] < rows["K = 1"]["missing"]
    assert rows["ELBO"]["mean"] == pytest.approx(told["annealed"]["log_likelihood"] - whole)
    assert not result.warnings


def test_warnings():
    ppca = PPCA(**PPCA_OF)
    x = ppca.sample(40)
    result = likelihood_gap(
        ppca.model,
        ppca.rough_guide(2.5, 2.0),
        x,
        particles=(2000,),
        annealing_options={"num_temperatures": 1, "num_chains": 1},
        refine_options={"num_steps": 1, "learning_rate": 4.0, "num_particles": 50},
    )
    told = " ".join(result.warnings)
    assert "below the bound with K = 2000" in told and "refinement lowered the ELBO of 40 of 40" in told
    assert "transitions" not in told and result.annealed.to_dict()["acceptance"] is None  # there were none


def test_bad_input():
    ppca = PPCA(**PPCA_OF)
    x = ppca.sample(2)
    guide = ppca.rough_guide()
    for name in ("num_steps", "step_particles", "num_particles", "batch_size"):
        with pytest.raises(InputError, match=f"{name} must be a positive integer"):
            refine(ppca.model, guide, x, **{name: 0})
    with pytest.raises(InputError, match="learning_rate must be positive"):
        refine(ppca.model, guide, x, learning_rate=0.0)
    with pytest.raises(InputError, match="particles must name at least one"):
        likelihood_gap(ppca.model, guide, x, particles=())

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z[..., None] * torch.ones(5), 1.0).to_event(1), obs=x)

    def coin(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5 + 0 * x[:, 0]))

    with pytest.raises(InputError, match="'z': the guide's Bernoulli cannot be refined"):
        refine(model, coin, x)


def test_a_family_whose_support_would_move_is_refused():
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Beta(2.0, 2.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    for q in (dist.Uniform(torch.tensor(0.0), 1.0), dist.Delta(torch.tensor(0.5))):

        def guide(x, q=q):
            with pyro.plate("data", len(x)):
                pyro.sample("z", q)

        with pytest.raises(InputError, match=f"'z': the guide's {type(q).__name__} cannot be refined.*support"):
            refine(model, guide, torch.zeros(3), num_steps=2)


def test_dynamic_binarization_is_drawn_once_for_all_bounds():
    """Pixels that the latent does not touch: every bound with the exact guide is log p(x) of the same x."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            logits = 2.0 + 0.0 * z[..., None].expand(*z.shape, 6)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    split = Split({"x": torch.full((8, 6), 0.5)}, binarization="dynamic")
    options = {"annealing_options": {"num_temperatures": 3}, "refine_options": {"num_steps": 1, "batch_size": 3}}
    gap = likelihood_gap(model, guide, split, particles=(1, 7), **options)
    assert gap.annealed.per_datum.std() > 0.5
    for bound in (gap.elbo.amortized, *(each.per_datum for each in gap.importance.values())):
        torch.testing.assert_close(bound, gap.annealed.per_datum, rtol=0, atol=1e-3)


def test_the_rate_falls_and_the_last_half_of_the_steps_is_averaged():
    """Under a constant slope Adam's steps are the rate: 1, 3/4, 1/4 of it; the mean of the last two of three places."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0 * x, 1e-3))

    result = refine(model, guide, torch.tensor([1000.0, -500.0]), num_steps=3, learning_rate=0.1)
    moved = 0.1 * (1.75 + 2.0) / 2
    expected = torch.tensor([1000.0, 500.0]).double() * moved
    torch.testing.assert_close(result.refined - result.amortized, expected, rtol=0, atol=1.0)
