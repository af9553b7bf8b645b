"""Terms that only training knows, and factors of a guide, which belong to log q."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_vae import fit
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo, log_likelihood
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.programs.handlers import KLWeighted, penalty

X = torch.tensor([[-1.0], [0.5], [2.0]])


def model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def posterior(x):
    """The exact posterior: N(0.8 x, 0.2)."""
    return dist.Normal(0.8 * x, math.sqrt(0.2)).to_event(1)


def plain(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", posterior(x))


def penalized(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", posterior(x))
        penalty("size", x.squeeze(-1).square())


def with_jacobian(x):
    """z = 0.8 x + sqrt(0.2) u with u ~ N(0, 1): log q(z) = log N(u) - log sqrt(0.2), the latter as a factor."""
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", dist.Normal(torch.zeros(1), 1.0).to_event(1), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Delta(0.8 * x + math.sqrt(0.2) * u, event_dim=1))
        pyro.factor("jacobian", torch.full((len(x),), -0.5 * math.log(0.2)), has_rsample=True)


def exact():
    return dist.Normal(0.0, math.sqrt(1.25)).log_prob(X.squeeze(-1))


@pytest.mark.parametrize("objective", [ELBO(), ELBO(num_particles=3), IWAE(4), IWAE(4, gradient="stl")])
def test_objectives_add_a_penalty_and_report_it(objective):
    torch.manual_seed(0)
    without = objective.terms(model, plain, X)
    torch.manual_seed(0)
    terms = objective.terms(model, penalized, X)
    mean = (1 + 0.25 + 4) / 3
    assert terms.loss.item() == pytest.approx(without.loss.item() + mean, abs=1e-5)
    assert terms.named()["penalty/size"].item() == pytest.approx(mean)
    torch.manual_seed(0)
    measured = objective.for_validation().terms(model, penalized, X)
    assert measured.loss.item() == pytest.approx(without.loss.item(), abs=1e-6)
    assert "penalty/size" not in measured.named()
    assert objective.penalized


def test_plain_svi_adds_it_as_well():
    torch.manual_seed(0)
    without = Trace_ELBO().loss(model, plain, X)
    torch.manual_seed(0)
    assert Trace_ELBO().loss(model, penalized, X) == pytest.approx(without + 5.25, abs=1e-4)


def test_evaluation_leaves_penalties_out():
    bound = log_likelihood(model, penalized, X, num_particles=3)
    torch.testing.assert_close(bound.per_datum, exact().double(), atol=1e-5, rtol=0)
    measured = elbo(model, penalized, X, analytic_kl=False)
    torch.testing.assert_close(measured.per_datum, exact().double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("particles", [1, 7])
def test_a_factor_of_the_guide_is_a_part_of_log_q(particles):
    """With the exact posterior every weight is p(x), which only holds if the Jacobian is counted."""
    bound = log_likelihood(model, with_jacobian, X, num_particles=particles)
    torch.testing.assert_close(bound.per_datum, exact().double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(elbo(model, with_jacobian, X).per_datum, exact().double(), atol=1e-5, rtol=0)
    for objective in (ELBO(), ELBO(num_particles=2), IWAE(3)):
        assert objective.loss(model, with_jacobian, X) == pytest.approx(-exact().mean().item(), abs=1e-5)


def test_a_factor_is_evaluated_at_every_draw():
    """z ~ q(z | x), the exact posterior; its site is masked, and a factor is its density: every weight is p(x)."""

    def corrected(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", posterior(x).mask(False))
            pyro.factor("correction", posterior(x).log_prob(z), has_rsample=False)

    bound = log_likelihood(model, corrected, X, num_particles=4000, memory_budget=100_000)
    torch.testing.assert_close(bound.per_datum, exact().double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("objective", [ELBO(analytic_kl=False), IWAE(1)])
def test_the_kl_weight_is_of_a_guides_factors_and_not_of_penalties(objective, weight):
    """log q(z) as one density, or as a part of it and a factor: the same weighted loss."""

    def both(x):
        with_jacobian(x)
        with pyro.plate("again", len(x)):
            penalty("size", x.squeeze(-1).square())

    beta = torch.tensor(weight)
    torch.manual_seed(0)
    loss = objective.terms(KLWeighted(model, beta), KLWeighted(both, beta, of_guide=True), X).loss
    torch.manual_seed(0)
    expected = objective.terms(KLWeighted(model, beta), KLWeighted(penalized, beta, of_guide=True), X).loss
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("gradient", ["dreg", "stl"])
def test_estimators_that_need_densities_refuse_factors_and_point_masses(gradient):
    with pytest.raises(InputError, match=r"site z is a point mass, jacobian is a factor.*'standard'"):
        IWAE(2, gradient=gradient).terms(model, with_jacobian, X)


def test_a_guide_reports_numbers_of_its_sites():
    def reporting(x):
        with pyro.plate("data", len(x)):
            shift = pyro.param("shift", torch.zeros(1))
            pyro.sample("z", dist.Normal(shift, 1.0).expand(x.shape).to_event(1), infer={"report": {"norm": x.norm()}})

    result = fit(model, reporting, X, epochs=1, progress=False, batch_size=3)
    assert result.records[0]["train/norm/z"] == pytest.approx(X.norm().item())
