"""Laws of bounds, over random programs: ELBO and IWAE against plain Pyro, against log p(x) and against each other."""

import math

import pytest
import torch
from exact_values import plain_weights, total
from laws import ERRORS, check_mean, each, repeated, seeds

from pyro_vae import IWAE
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo, latent_statistics, log_likelihood
from pyro_vae.objectives import ELBO
from pyro_vae.programs.program import as_programs

DRAWS = 10_000  # of plain Pyro, a datum


class Reference:
    """The ELBO of a program by plain Pyro: E log w, its parts by site, and how much each of them varies."""

    def __init__(self, program):
        self.parts = plain_weights(program, DRAWS, seed=5)
        self.log_w = total(self.parts)  # (R, N)
        self.elbo = self.log_w.mean(0)
        self.spread = sum(part.std(0) for part in self.parts.values())  # of any sum of parts, at most

    def error(self, num_particles):
        """Standard error of the difference to an estimate of so many particles, ``(N,)``."""
        return self.spread * math.sqrt(1 / num_particles + 1 / DRAWS)


def agrees(program, reference, found, num_particles, what):
    """An estimate of the ELBO of every datum has plain Pyro's mean; -inf where a guide draws outside a support."""
    finite = reference.elbo.isfinite()
    assert (found[~finite] == -torch.inf).all(), f"{what}: {found}, though draws outside the support make it -inf"
    error = reference.error(num_particles)
    check_mean(found[finite], reference.elbo[finite], error[finite], what)
    if finite.all():  # data are independent
        check_mean(found.mean(), reference.elbo.mean(), error.square().sum().sqrt() / len(error), f"{what}, mean")
    above = found - program.exact - ERRORS * error.nan_to_num()
    assert (above < 1e-3).all(), f"{what}: above log p(x) by {found - program.exact}"


def twice(check):
    """Draw again, with more particles, what is off."""
    try:
        check(2000, 0)
    except AssertionError:
        check(20_000, 1)


# ----------------------------------------------------------------- evaluation
def elbo_is_the_bound(program, analytic_kl):
    reference = Reference(program)

    def check(k, seed):
        given = {"num_particles": k, "analytic_kl": analytic_kl, "seed": seed}
        found = elbo(program.model, program.guide, program.batch, **given).per_datum
        agrees(program, reference, found, k, f"elbo(analytic_kl={analytic_kl})")

    twice(check)


def elbo_with_closed_forms(program):
    elbo_is_the_bound(program, True)


def elbo_at_the_draws(program):
    elbo_is_the_bound(program, False)


def elbo_of_one_particle(program):
    """One particle of many copies of each datum: the same in expectation as many of each."""
    reference = Reference(program)

    def check(k, seed):
        times = k // 5
        batch = repeated(program.batch, times)
        found = elbo(program.model, program.guide, batch, num_particles=1, seed=seed).per_datum
        agrees(program, reference, found.reshape(-1, times).mean(1), times, "elbo(num_particles=1)")

    twice(check)


def kl_by_site_is_the_same(program):
    """KL of latent_statistics and of elbo, site by site; they are the same numbers where none is drawn."""
    given = {"num_particles": 2000, "seed": 0}
    bound = elbo(program.model, program.guide, program.batch, **given)
    statistics = latent_statistics(program.model, program.guide, program.batch, **given)
    parts = plain_weights(program, DRAWS, seed=5)
    for name, site in statistics.sites.items():
        part = parts[name] + parts.get(f"{name}_unconstrained", 0.0)  # (R, N): log p - log q
        error = part.std(0).square().sum().sqrt() / part.shape[1] * math.sqrt(1 / 2000 + 1 / DRAWS)
        right = -part.mean()
        if right.isfinite():
            check_mean(torch.tensor(site.kl), right, error, f"latent_statistics' KL of {name}")
            check_mean(bound.kl[name].mean(), right, error, f"elbo's KL of {name}")


@seeds(0, 24, 8)
def test_elbo_with_closed_forms(block):
    each(block, elbo_with_closed_forms)


@seeds(24, 48, 8)
def test_elbo_at_the_draws(block):
    each(block, elbo_at_the_draws)


@seeds(48, 64, 8)
def test_elbo_of_one_particle(block):
    each(block, elbo_of_one_particle)


@seeds(0, 16, 8)
def test_kl_by_site(block):
    each(block, kl_by_site_is_the_same)


# ----------------------------------------------------------------- objectives
def loss(objective, program, batch, seed):
    """An objective's value on a batch, nats per datum, as ``fit`` would call it."""
    torch.manual_seed(seed)
    model, guide = as_programs(program.model, program.guide)
    for module in (model, guide):
        module.eval()
    with torch.no_grad():
        return torch.tensor(objective.differentiable_loss(model, guide, **batch).item(), dtype=torch.float64)


def objective_is_the_elbo(program):
    reference = Reference(program)
    for analytic_kl in (True, False):

        def check(k, seed, analytic_kl=analytic_kl):
            objective = ELBO(k, analytic_kl=analytic_kl)
            found = -loss(objective, program, program.batch, seed)
            agrees_on_average(reference, found, k, f"ELBO(analytic_kl={analytic_kl})")

        twice(check)


def agrees_on_average(reference, found, num_particles, what):
    right = reference.elbo.mean()
    if right.isfinite():
        error = reference.error(num_particles)
        check_mean(found, right, error.square().sum().sqrt() / len(error), what)
    else:
        assert found == -torch.inf, f"{what}: {found}, though draws outside the support make it -inf"


def objective_of_one_particle(program):
    reference, times = Reference(program), 1000
    objective = ELBO(1)
    found = -loss(objective, program, repeated(program.batch, times), 3)
    agrees_on_average(reference, found, times, "ELBO(1) of many copies")


def one_particle_of_both(program):
    """IWAE(1) is ELBO(1) without closed forms, draw by draw."""
    one = loss(IWAE(1), program, program.batch, 7)
    two = loss(ELBO(1, analytic_kl=False), program, program.batch, 7)
    assert torch.allclose(one, two, atol=1e-4, rtol=1e-4), f"IWAE(1) {one}, ELBO(1, analytic_kl=False) {two}"


def iwae_is_log_likelihood(program):
    """IWAE of many particles is log p(x), as log_likelihood is, both with its standard error."""

    def check(k, seed):
        found = -loss(IWAE(k), program, program.batch, seed)
        told = log_likelihood(program.model, program.guide, program.batch, num_particles=k, seed=seed, compile="off")
        error = (1 / told.effective_sample_size - 1 / told.num_particles).clamp(min=0).sqrt()
        if (told.pareto_k > 0.7).any():
            assert found < program.expected.mean() + ERRORS * error.mean() + 1e-3
        else:
            check_mean(found, program.expected.mean(), (error + error**2).mean(), f"IWAE({k})")

    twice(check)


@seeds(0, 16, 8)
def test_objective_is_the_elbo(block):
    each(block, objective_is_the_elbo, refusals=ValueError)


@seeds(16, 32, 8)
def test_objective_of_one_particle(block):
    each(block, objective_of_one_particle, refusals=ValueError)


@seeds(32, 64, 16)
def test_iwae_of_one_particle_is_the_elbo(block):
    each(block, one_particle_of_both, refusals=ValueError)


@seeds(64, 80, 8)
def test_iwae_of_many_particles_is_log_p_of_x(block):
    each(block, iwae_is_log_likelihood, refusals=ValueError)


LAWS = [
    elbo_with_closed_forms,
    elbo_at_the_draws,
    elbo_of_one_particle,
    kl_by_site_is_the_same,
    objective_is_the_elbo,
    objective_of_one_particle,
    one_particle_of_both,
    iwae_is_log_likelihood,
]


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@seeds(0, 500, 25)
def test_every_law_for_more_programs(block, law):
    objective = law in (objective_is_the_elbo, objective_of_one_particle, one_particle_of_both, iwae_is_log_likelihood)
    each(block, law, refusals=ValueError if objective else InputError)
