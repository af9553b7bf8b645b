"""Whether weights have p(x) as their mean: what is right is counted, what is not is refused by name."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import easy_guide
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoNormal,
    AutoNormalMessenger,
    AutoStructured,
)
from torch import nn
from torch.distributions import biject_to, constraints

from pyro_vae import fit
from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, bidirectional, elbo, log_likelihood, refine
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.programs.sites import may_leave

K = 4000


def model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


X = torch.randn(40, 2, generator=torch.Generator().manual_seed(1)) * math.sqrt(2)
EXACT = dist.Normal(0.0, math.sqrt(2)).log_prob(X).sum(-1)


def in_plate(body):
    def guide(x):
        with pyro.plate("data", len(x)):
            body(x)

    return guide


def close(result, truth=EXACT):
    """Within the error that the weights themselves show."""
    error = (1 / result.effective_sample_size - 1 / K).clamp(min=0).sqrt()
    return bool(((result.per_datum - truth).abs() < 5 * error + 1e-3).all())


# ------------------------------------------------------------------------------ point masses
def test_a_point_mass_at_a_continuous_latent_is_no_bound():
    guide = in_plate(lambda x: pyro.sample("z", dist.Delta(x / 2, event_dim=1)))
    for tool in (log_likelihood, elbo, ais):
        with pytest.raises(InputError, match=r"'z'.*point mass at a continuous latent.*start='prior'"):
            tool(model, guide, X)


def test_training_with_a_point_mass_says_that_it_is_no_bound(caplog):
    guide = in_plate(lambda x: pyro.sample("z", dist.Delta(pyro.param("a", torch.tensor(0.1)) * x, event_dim=1)))
    result = fit(model, guide, X, epochs=200, learning_rate=0.05, progress=False, device="cpu")
    assert "'z': the guide is a point mass" in caplog.text
    assert result.guide.param("a").item() == pytest.approx(0.5, abs=0.02)  # the mode
    assert ais(result.model, result.guide, X, start="prior", num_temperatures=50).mean == pytest.approx(
        EXACT.mean().item(), abs=0.1
    )


# ------------------------------------------------------------------------------ sites of the guide's own
def auxiliary(width):
    def body(x):
        a = pyro.sample("a", dist.Normal(torch.zeros(2), width).to_event(1), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(x / 2 + 0.1 * a, 0.75).to_event(1))

    return in_plate(body)


def test_an_auxiliary_site_needs_a_reverse_model():
    for tool in (log_likelihood, elbo, fit):
        with pytest.raises(InputError, match=r"'a' is the guide's alone.*reverse model.*pyro\.sample\('a'"):
            tool(model, auxiliary(10.0), X)


def test_with_a_reverse_model_the_weights_are_right():
    def with_reverse(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            x = pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            pyro.sample("a", dist.Normal(0.1 * z, 1.1).to_event(1), infer={"is_auxiliary": True})
            return x

    assert close(log_likelihood(with_reverse, auxiliary(1.0), X, num_particles=K))
    assert elbo(with_reverse, auxiliary(1.0), X, num_particles=100).mean < EXACT.mean()


def transformed(transform, scale=1.0):
    """A guide in the form of AutoNormal: noise, and a function of it with the density of its Jacobian."""

    def body(x):
        u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1), infer={"is_auxiliary": True})
        value, log_det = transform(x, u)
        pyro.sample("z", dist.Delta(value, log_density=-scale * log_det, event_dim=1))

    return in_plate(body)


MIX = torch.tensor([[0.8, 0.0], [0.3, 0.7]])


def affine(x, u):
    return x / 2 + u @ MIX.T, torch.tensor(0.56).log().expand(u.shape[:-1])


def cubic(x, u):
    """One number after another: u + u^3 / 10."""
    return x / 2 + 0.7 * u + 0.05 * u**3, (0.7 + 0.15 * u.square()).log().sum(-1)


@pytest.mark.parametrize("transform", [affine, cubic])
def test_functions_of_auxiliary_sites_count_with_their_jacobian(transform):
    guide = transformed(transform)
    assert close(log_likelihood(model, guide, X, num_particles=K))
    bound = elbo(model, guide, X, num_particles=400)
    assert bound.mean < EXACT.mean() + 0.02
    for objective in (ELBO(400), IWAE(1)):
        losses = [objective.loss(model, guide, X) for _ in range(20)]
        assert -sum(losses) / 20 == pytest.approx(bound.mean, abs=0.15)


@pytest.mark.parametrize("scale", [0.0, -1.0, 2.0])
def test_a_wrong_jacobian_is_refused(scale):
    with pytest.raises(InputError, match="'u' is the guide's alone"):
        log_likelihood(model, transformed(affine, scale), X)


def test_the_form_of_autonormal_on_a_constrained_latent_is_exact_in_every_objective():
    """The guide is the posterior (x says nothing): every bound is log p(x)."""

    def positive(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            pyro.sample("s", dist.LogNormal(torch.tensor(-2.0), 1.0))
            return pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=x)

    def body(x):
        u = pyro.sample("u", dist.Normal(-2 * torch.ones(len(x)), 1.0), infer={"is_auxiliary": True})
        value = biject_to(constraints.positive)(u)
        pyro.sample("s", dist.Delta(value, log_density=-u))

    truth = dist.Normal(0.0, 1.0).log_prob(X).sum(-1)
    guide = in_plate(body)
    for result in (log_likelihood(positive, guide, X, num_particles=7), elbo(positive, guide, X)):
        torch.testing.assert_close(result.per_datum, truth.double(), atol=1e-4, rtol=0)
    for objective in (ELBO(), ELBO(3), IWAE(5)):
        assert -objective.loss(positive, guide, X) == pytest.approx(truth.mean().item(), abs=1e-4)


# ------------------------------------------------------------------------------ kinds, masks, factors
def test_a_density_is_not_weighed_against_a_probability():
    def discrete(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            y = pyro.sample("z", dist.OneHotCategorical(torch.ones(3) / 3))
            return pyro.sample("x", dist.Normal(y[..., :2], 1.0).to_event(1), obs=x)

    relaxed = in_plate(
        lambda x: pyro.sample("z", dist.RelaxedOneHotCategorical(torch.tensor(0.5), logits=torch.zeros(len(x), 3)))
    )
    hard = in_plate(lambda x: pyro.sample("z", dist.OneHotCategorical(logits=torch.zeros(len(x), 3))))
    for tool in (log_likelihood, elbo, fit):
        with pytest.raises(InputError, match=r"'z'.*a density.*probabilities.*OneHotCategorical in the guide as well"):
            tool(discrete, relaxed, X)
    truth = torch.stack([dist.Normal(e[:2], 1.0).log_prob(X).sum(-1) for e in torch.eye(3)]).logsumexp(0) - math.log(3)
    assert close(log_likelihood(discrete, hard, X, num_particles=K), truth)


def test_a_point_mass_in_the_model_is_not_drawn_from_a_density():
    def function(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Delta(torch.zeros(2), event_dim=1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    with pytest.raises(InputError, match=r"'z'.*the model has a point mass there"):
        log_likelihood(function, in_plate(lambda x: pyro.sample("z", dist.Normal(x, 1.0).to_event(1))), X)


def test_masks_of_a_latent_must_be_those_of_both_programs():
    keep = torch.tensor([True, False])

    def masked(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).mask(keep).to_event(1))
            return pyro.sample("x", dist.Normal(z * keep, 1.0).to_event(1), obs=x)

    both = in_plate(lambda x: pyro.sample("z", dist.Normal(x / 2, 0.8).mask(keep.clone()).to_event(1)))
    neither = in_plate(lambda x: pyro.sample("z", dist.Normal(x / 2, 0.8).to_event(1)))
    truth = dist.Normal(0.0, math.sqrt(2)).log_prob(X[:, 0]) + dist.Normal(0.0, 1.0).log_prob(X[:, 1])
    assert close(log_likelihood(masked, both, X, num_particles=K), truth)
    gap = 0.64 / (2 * 0.5) - 0.5 - math.log(0.8 / math.sqrt(0.5))  # KL to the posterior N(x / 2, 1 / 2)
    for analytic in (True, False):
        bound = elbo(masked, both, X, num_particles=2000, analytic_kl=analytic)
        assert bound.mean == pytest.approx(truth.mean().item() - gap, abs=0.02)
    with pytest.raises(InputError, match="'z' is masked in the model where it is not in the guide"):
        log_likelihood(masked, neither, X)
    with pytest.raises(InputError, match="not the density of what it draws"):
        log_likelihood(model, both, X)


def test_poutine_masks_of_a_latent_take_part_of_the_closed_form():
    """Data whose latent is left out have no KL; the others have theirs, in closed form."""
    keep = torch.arange(len(X)) % 3 > 0

    def masked(x=None, keep=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            with poutine.mask(mask=keep):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z * keep[..., None], 1.0).to_event(1), obs=x)

    def guide(x, keep):
        with pyro.plate("data", len(x)), poutine.mask(mask=keep):
            pyro.sample("z", dist.Normal(x / 2, 0.5).to_event(1))

    batch = {"x": X, "keep": keep}
    kl = torch.distributions.kl_divergence(dist.Normal(X / 2, 0.5), dist.Normal(torch.zeros(2), 1.0)).sum(-1) * keep
    for bound in (elbo(masked, guide, batch), elbo(masked, guide, batch, num_particles=20_000, analytic_kl=False)):
        assert (bound.kl["z"] - kl).abs().max() < (1e-5 if bound.num_particles == 10 else 0.1)
    terms = ELBO().terms(masked, guide, **batch)
    assert terms.kl["z"].item() == pytest.approx(kl.mean().item(), abs=1e-5)


def test_a_factor_that_is_no_density_is_left_out_and_said(caplog):
    def body(x):
        pyro.factor("classification_loss", -5.0 * x.square().sum(-1), has_rsample=False)
        pyro.sample("z", dist.Normal(x / 2, 0.75).to_event(1))

    result = log_likelihood(model, in_plate(body), X, num_particles=K)
    assert close(result) and len(result.warnings) == 1
    assert "'classification_loss'" in result.warnings[0] and "penalty" in result.warnings[0]
    bound = elbo(model, in_plate(body), X, num_particles=500)
    assert bound.mean == pytest.approx(elbo(model, auxiliary_free, X, num_particles=500).mean, abs=0.05)
    assert ais(model, in_plate(body), X, num_temperatures=40).mean == pytest.approx(EXACT.mean().item(), abs=0.05)

    def with_parameter(x):
        body(x + 0 * pyro.param("shift", torch.zeros(2)))

    fit(model, in_plate(with_parameter), X, epochs=1, progress=False, device="cpu")
    assert "factor 'classification_loss' of the guide is no part of the density" in caplog.text


auxiliary_free = in_plate(lambda x: pyro.sample("z", dist.Normal(x / 2, 0.75).to_event(1)))


# ------------------------------------------------------------------------------ supports
def exponential(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Exponential(torch.ones(1)).to_event(1))
        return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def test_draws_outside_the_prior_s_support_weigh_nothing():
    x = dist.Exponential(1.0).sample((60, 1)) + torch.randn(60, 1)
    grid = torch.linspace(0, 40, 40_001, dtype=torch.float64)
    truth = torch.stack(
        [torch.trapezoid((-grid + dist.Normal(grid, 1.0).log_prob(v.double())).exp(), grid).log() for v in x[:, 0]]
    )
    guide = in_plate(lambda x: pyro.sample("z", dist.Normal(0.5 * x, 1.2).to_event(1)))
    result = log_likelihood(exponential, guide, x, num_particles=K)
    assert close(result, truth) and "outside the support of the model's Exponential" in result.warnings[0]
    bound = elbo(exponential, guide, x, num_particles=100)
    assert bound.mean == -math.inf and any("not finite" in w for w in bound.warnings)
    with pytest.raises(InputError, match=r"'z'.*Normal.*outside the support.*Exponential.*LogNormal or Gamma"):
        fit(exponential, guide, x, epochs=1, progress=False)


def test_a_guide_that_misses_a_part_is_a_lower_bound_and_said():
    guide = in_plate(lambda x: pyro.sample("z", dist.LogNormal(torch.zeros(len(x), 2), 1.0).to_event(1)))
    result = log_likelihood(model, guide, X, num_particles=500)
    assert result.mean < EXACT.mean() and "does not cover the support" in result.warnings[0]


def test_what_may_leave_a_support():
    normal, gamma, beta = dist.Normal(0.0, 1.0), dist.Gamma(1.0, 1.0), dist.Beta(1.0, 1.0)
    dirichlet, uniform = dist.Dirichlet(torch.ones(3)), dist.Uniform(torch.zeros(2), torch.ones(2))
    leaves = [
        (normal, gamma),
        (gamma, beta),
        (normal, dirichlet),
        (gamma, uniform),
        (dist.Categorical(torch.ones(4)), dist.Categorical(torch.ones(3))),
    ]
    stays = [
        (gamma, normal),
        (beta, gamma),
        (dist.LogNormal(0.0, 1.0), gamma),
        (dirichlet, dirichlet),
        (dist.Exponential(1.0), dist.HalfNormal(1.0)),
        (normal.expand([3]).to_event(1), dist.MultivariateNormal(torch.zeros(3), torch.eye(3))),
    ]
    assert all(may_leave(q, p) for q, p in leaves) and not any(may_leave(q, p) for q, p in stays)


# ------------------------------------------------------------------------------ what all data share
def with_weight(x=None, num_samples=1):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", num_samples if x is None else len(x)):
        return pyro.sample("x", dist.Normal(w.sum(-1), 1.0), obs=x)


def of_weight(x):
    pyro.sample("w", dist.Normal(2 * torch.ones(3), 0.01).to_event(1))


@pytest.mark.parametrize("particles", [1, 10, 100])
def test_the_elbo_with_a_shared_latent_does_not_depend_on_batches(particles):
    x = torch.randn(300) + 6
    kl = torch.distributions.kl_divergence(dist.Normal(2.0, 0.01), dist.Normal(0.0, 1.0)).item() * 3 / 300
    found = elbo(with_weight, of_weight, x, num_particles=particles)
    assert found.to_dict()["kl"]["w"] == pytest.approx(kl, rel=1e-4)
    truth = dist.Normal(6.0, 1.0).log_prob(x).mean().item() - 3 * 1e-4 / 2 - kl
    assert found.mean == pytest.approx(truth, abs=0.01)
    assert found.given_shared.mean().item() == pytest.approx(truth + kl, abs=0.01)
    assert log_likelihood(with_weight, of_weight, x).mean == pytest.approx(truth + kl, abs=0.01)


def test_training_in_batches_weighs_a_shared_latent_by_all_the_data():
    """Conjugate: the posterior of w given 200 data of N(w, 1) is N(sum x / 201, 1 / 201)."""
    x = torch.randn(200) + 1.0

    def mean_model(x=None, num_samples=1):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", num_samples if x is None else len(x)):
            return pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.tensor(0.3), constraint=constraints.positive)
        pyro.sample("w", dist.Normal(pyro.param("loc", torch.tensor(0.0)), scale))

    result = fit(mean_model, guide, x, epochs=150, batch_size=20, learning_rate=0.02, progress=False, device="cpu")
    assert result.guide.param("loc").item() == pytest.approx(x.sum().item() / 201, abs=0.03)
    assert result.guide.param("scale").item() == pytest.approx(1 / math.sqrt(201), rel=0.2)
    assert set(result.guide.store.names) == {"scale", "loc"}
    with pytest.raises(InputError, match=r"unknown pyro\.param 'lok'\. Did you mean 'loc'"):
        result.guide.param("lok")


def topics(x=None, num_samples=1):
    with pyro.plate("topics", 4):
        beta = pyro.sample("beta", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    with pyro.plate("documents", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z @ beta, 1.0).to_event(1), obs=x)


slope = torch.nn.Parameter(torch.tensor(0.5))


def topics_guide(x):
    with pyro.plate("topics", 4):
        pyro.sample("beta", dist.Normal(torch.ones(4, 5), 0.1).to_event(1))
    with pyro.plate("documents", len(x)):
        pyro.sample("z", dist.Normal(x[..., :4] * slope, 0.5).to_event(1))


@pytest.mark.parametrize("n", [4, 12])
def test_global_latents_in_a_plate_are_not_taken_for_the_data_s(n):
    """Also where there are as many of them as data; against Pyro's own bound."""
    x = torch.randn(n, 5)
    kl = torch.distributions.kl_divergence(dist.Normal(1.0, 0.1), dist.Normal(0.0, 1.0)).item() * 20 / n
    found = elbo(topics, topics_guide, x, num_particles=1)
    assert found.to_dict()["kl"]["beta"] == pytest.approx(kl, rel=1e-5)
    theirs = sum(pyro.infer.TraceMeanField_ELBO().loss(topics, topics_guide, x) for _ in range(300)) / 300 / n
    ours = sum(ELBO().loss(topics, topics_guide, x) for _ in range(300)) / 300
    assert ours == pytest.approx(theirs, rel=0.03)
    bound = log_likelihood(topics, topics_guide, x, num_particles=5)
    assert bound.shared.kl["beta"] == pytest.approx(kl * n, rel=1e-5)
    for refused in (lambda: refine(topics, topics_guide, x), lambda: bidirectional(topics, topics_guide, n)):
        with pytest.raises(InputError, match="'beta' is outside the data plate"):
            refused()
    before = slope.item()
    fit(topics, topics_guide, x, epochs=2, batch_size=max(1, n // 2), progress=False, device="cpu")
    assert slope.item() != before
    slope.data.fill_(before)


# ------------------------------------------------------------------------------ factors, hints, automatic guides
def test_a_factor_of_the_model_outside_the_plate_is_refused():
    def outside(x=None, num_samples=1):
        pyro.factor("regularizer", torch.tensor(-3.0))
        return model(x, num_samples)

    for tool in (log_likelihood, elbo, fit):
        with pytest.raises(InputError, match="factor 'regularizer' of the model is in no plate"):
            tool(outside, auxiliary_free, X)


def discrete(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        y = pyro.sample("y", dist.Bernoulli(0.5))
        return pyro.sample("x", dist.Normal(y[..., None], 1.0).expand([*y.shape, 2]).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ({"nn_base": 1}, "unknown baseline option of site 'y' 'nn_base'. Did you mean"),
        ({"nn_baseline": nn.Linear(2, 1)}, "site 'y' has nn_baseline without nn_baseline_input"),
        ({"nn_baseline": nn.Linear(2, 1), "nn_baseline_input": X}, r"site 'y': its baseline is \(2, 1\) where \(2,\)"),
        ({"use_decaying_avg_baseline": True, "baseline_beta": 1.0}, "baseline_beta must be at least 0 and below 1"),
        (
            {"nn_baseline": len, "nn_baseline_input": X, "baseline_value": X[:, 0]},
            "both nn_baseline and baseline_value",
        ),
    ],
)
def test_baselines_that_cannot_be_followed_are_refused(baseline, message):
    def given(x):
        found = dict(baseline)
        return found | {"nn_baseline_input": x} if "nn_baseline_input" in found else found

    def coin(x, **more):
        odds = pyro.param("odds", torch.zeros(()))
        pyro.sample("y", dist.Bernoulli(logits=odds.expand(len(x))), infer={"baseline": given(x), **more})

    with pytest.raises(InputError, match=message):
        fit(discrete, in_plate(coin), X, epochs=1, progress=False)


def test_baselines_of_sites_that_need_none_are_refused():
    def summed(x):
        hints = {"baseline": {"use_decaying_avg_baseline": True}, "enumerate": "parallel"}
        pyro.sample("y", dist.Bernoulli(logits=pyro.param("odds", torch.zeros(())).expand(len(x))), infer=hints)

    with pytest.raises(InputError, match=r"'y' is summed over exactly, and has infer=.*'baseline'"):
        fit(discrete, in_plate(summed), X, epochs=1, progress=False)

    def normal(x):
        q = dist.Normal(pyro.param("slope", torch.ones(())) * x, 1.0).to_event(1)
        pyro.sample("z", q, infer={"baseline": {"use_decaying_avg_baseline": True}})

    with pytest.raises(InputError, match=r"'z' \(Normal\) is reparameterized, and has infer=.*'baseline'"):
        fit(model, in_plate(normal), X, epochs=1, progress=False)


@pytest.mark.parametrize(
    "automatic",
    [AutoDelta, AutoDiagonalNormal, AutoIAFNormal, AutoStructured, AutoNormalMessenger],
    ids=lambda a: a.__name__,
)
def test_automatic_guides_of_every_kind_are_refused_by_the_site(automatic):
    for tool in (lambda *pair: fit(*pair, epochs=1, progress=False), log_likelihood):
        with pytest.raises(InputError, match=rf"{automatic.__name__} keeps parameters of its own for each datum's 'z'"):
            tool(model, automatic(model), X)

    def shared(x=None, num_samples=1):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", num_samples if x is None else len(x)):
            return pyro.sample("x", dist.Normal(w, 1.0).expand([2]).to_event(1), obs=x)

    if automatic is AutoNormalMessenger:
        with pytest.raises(InputError, match=r"AutoNormalMessenger is an effect handler.*AutoNormal in its place"):
            fit(shared, automatic(shared), X, epochs=1, progress=False)


def test_easy_guides_are_measured_and_trained():
    """q(z | x) = N(w x, 1); the posterior is N(x / 2, 1/2)."""

    @easy_guide(model)
    def guide(self, x=None, num_samples=1):
        group = self.group(match="z")
        with self.plate("data", len(x)):
            weight = pyro.param("w", torch.tensor(0.0))
            group.sample("group", dist.Normal(weight * x, 1.0).to_event(1))

    result = fit(model, guide, X, epochs=60, batch_size=20, learning_rate=0.03, progress=False, device="cpu")
    bound = log_likelihood(result.model, result.guide, X, num_particles=3000)
    assert (bound.per_datum - EXACT).abs().max() < 0.1
    best = EXACT.mean().item() - 2 * 0.5 * (2 - 1 - math.log(2))  # KL of N(., 1) from N(., 1/2), twice
    assert elbo(result.model, result.guide, X, num_particles=2000).mean == pytest.approx(best, abs=0.03)


def test_automatic_guides_serve_shared_latents_and_are_refused_for_the_data_s():
    with pytest.raises(InputError, match=r"AutoNormal keeps parameters of its own for each datum's 'z'.*GaussianGuide"):
        fit(model, AutoNormal(model), X, epochs=1, progress=False)
    with pytest.raises(InputError, match="AutoNormal keeps parameters"):
        log_likelihood(model, AutoNormal(model), X)

    def weighted(x=None, num_samples=1):
        w = pyro.sample("w", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(w * z, 1.0).to_event(1), obs=x)

    of_weights = AutoNormal(poutine.block(weighted, hide=["z", "x"]))

    def guide(x):
        of_weights(x)
        scale = pyro.param("scale", torch.tensor(0.7), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.3)) * x, scale).to_event(1))

    options = {"batch_size": 10, "learning_rate": 0.02, "progress": False, "device": "cpu"}
    result = fit(weighted, guide, X, epochs=1, **options)
    before = elbo(result.model, result.guide, X, num_particles=300).mean
    result = fit(result.model, result.guide, X, epochs=40, **options)
    assert elbo(result.model, result.guide, X, num_particles=300).mean > before + 0.02


# ------------------------------------------------------------------------------ observed for some data only
def half_labelled(x=None, y=None, known=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        y = pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])), obs=y, obs_mask=known)
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z + y[..., None], 1.0).to_event(1), obs=x)


def half_guide(x, known):
    with pyro.plate("data", len(x)):
        logits = pyro.param("logits", torch.zeros(3))
        pyro.sample("y_unobserved", dist.Categorical(logits=logits.expand(len(x), 3)))
        pyro.sample("z", dist.Normal(x / 4, 1.3).to_event(1))


def test_labels_that_are_observed_for_some_data_only():
    """log p(x, y) where y is known, log p(x) elsewhere, by enumeration; the guide samples all labels, as Pyro wants."""
    y, known = torch.arange(len(X)) % 3, torch.arange(len(X)) % 2 == 0
    joint = torch.stack(
        [
            p.log() + dist.Normal(float(k), math.sqrt(2)).log_prob(X).sum(-1)
            for k, p in enumerate(torch.tensor([0.2, 0.3, 0.5]))
        ]
    )
    truth = torch.where(known, joint.gather(0, y[None])[0], joint.logsumexp(0))
    batch = {"x": X, "y": y, "known": known}
    for vectorize in (True, False):
        assert close(log_likelihood(half_labelled, half_guide, batch, num_particles=K, vectorize=vectorize), truth)
    bound = elbo(half_labelled, half_guide, batch, num_particles=500)
    assert bound.mean < truth.mean() and bound.kl["y_unobserved"][known].abs().max() == 0
    result = fit(half_labelled, half_guide, batch, epochs=30, learning_rate=0.05, batch_size=40, progress=False)
    assert elbo(result.model, result.guide, batch, num_particles=500).mean > bound.mean
