"""Laws of log-likelihoods, over random programs: what is reported is log p(x), however it was computed."""

import math
from types import SimpleNamespace

import pytest
import torch
from exact_values import mean_weight, plain_weights, total
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import check_estimate, check_mean, each, joined, rows, seeds
from random_programs import batch_dependent_program

from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, elbo, log_likelihood

MORE = 1000  # programs of the slow run
SMALL = 128 * 2**10  # bytes: particles go by in several chunks; the draws of one chunk of the ELBO's must fit
CONTINUOUS = {"normal", "lognormal", "gamma", "exponential", "beta", "MultivariateNormal", "hierarchy"}


def estimate(program, k, seed, batch=None, **given):
    return log_likelihood(
        program.model,
        program.guide,
        program.batch if batch is None else batch,
        num_particles=k,
        seed=seed,
        **({"compile": "off"} | given),
    )


# ----------------------------------------------------------------- the value
def likelihood_is_exact(program):
    check_estimate(program, lambda k, seed: estimate(program, k, seed))


@seeds(0, 200)
def test_log_likelihood_is_log_p_of_x(block):
    each(block, likelihood_is_exact)


@pytest.mark.slow
@seeds(200, MORE, 20)
def test_log_likelihood_is_log_p_of_x_of_more_programs(block):
    each(block, likelihood_is_exact)


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(st.integers(10_000, 2**31))
def test_log_likelihood_is_log_p_of_x_of_any_program(seed):
    each([seed], likelihood_is_exact)


# ----------------------------------------------------------------- the way
def one_by_one(program, k, seed):
    size = len(program.batch["x"])
    single = [estimate(program, k, seed + i, rows(program.batch, torch.tensor([i]))) for i in range(size)]
    return joined(single)


def backwards(program, k, seed):
    index = torch.arange(len(program.batch["x"]) - 1, -1, -1)
    result = estimate(program, k, seed, rows(program.batch, index))
    return joined([result]) if len(index) == 1 else _reordered(result, index)


def _reordered(result, index):
    for name in ("per_datum", "effective_sample_size", "pareto_k"):
        setattr(result, name, getattr(result, name)[index])
    return result


WAYS = {
    "vectorize=False": lambda p, k, s: estimate(p, k, s, vectorize=False),
    "small memory": lambda p, k, s: estimate(p, k, s, memory_budget=SMALL),
    "graph": lambda p, k, s: estimate(p, k, s, compile="graph"),
    "graph, small memory": lambda p, k, s: estimate(p, k, s, compile="graph", memory_budget=SMALL),
    "one by one": one_by_one,
    "backwards": backwards,
    "another K": lambda p, k, s: estimate(p, k + 37, s),
}


def no_way_matters(program, ways):
    for name in ways:
        try:
            check_estimate(program, lambda k, s, way=WAYS[name]: way(program, k, s))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@seeds(0, 42, 7)
def test_no_number_depends_on_how_it_was_computed(block):
    each(block, lambda program: no_way_matters(program, [list(WAYS)[program.seed % len(WAYS)]]))


@pytest.mark.slow
@seeds(0, MORE // 2, 20)
def test_no_number_depends_on_how_it_was_computed_in_any_way(block):
    each(block, lambda program: no_way_matters(program, WAYS))


def graphs_are_the_same(program):
    one, two = (estimate(program, 100, 3, compile=mode, memory_budget=SMALL) for mode in ("off", "graph"))
    assert torch.allclose(one.per_datum, two.per_datum, atol=1e-4)


@seeds(300, 304, 4)
def test_recorded_chunks_give_the_same_numbers(block):
    each(block, graphs_are_the_same)


# ----------------------------------------------------------------- units, refusals
def dimensions_are_counted(program):
    """By site; bits are of all sites, if all are densities or all are probabilities, else of the kind with more."""
    result = estimate(program, 1, 0)
    by_kind = {True: 0.0, False: 0.0}
    for name, counted in program.counted.items():
        right, site = counted.mean().item(), result.sites[name]
        assert abs(site.dimensions - right) < 1e-6, f"{name}: {site.dimensions} dimensions, {right} are not masked"
        assert site.density == program.density[name], f"{name}: density {site.density}"
        by_kind[program.density[name]] += right
    right = max(by_kind.values())
    assert abs(result.num_dimensions - right) < 1e-6, f"{result.num_dimensions} dimensions, {right} are not masked"
    if right and len(set(program.density.values())) == 1 and result.per_datum.isfinite().all():
        bits = -result.per_datum.mean().item() / (right * math.log(2))
        assert abs(result.bits_per_dim - bits) < 1e-6, f"{result.bits_per_dim} bits, {bits} are right"


@seeds(0, 40, 20)
def test_dimensions_are_the_elements_that_count(block):
    each(block, dimensions_are_counted)


@pytest.mark.parametrize("seed", range(8))
def test_data_that_change_each_others_density_are_refused_or_run_alone(seed):
    """There is no density of a datum; what may be told is that of a batch of one."""
    program = batch_dependent_program(seed)
    k, given = 20_000, {"seed": 0}
    try:
        likelihood = log_likelihood(program.model, program.guide, program.batch, num_particles=k, **given)
        bound = elbo(program.model, program.guide, program.batch, num_particles=500, **given)
    except InputError:
        return
    for i in (0, 1):
        one = SimpleNamespace(model=program.model, guide=program.guide, batch=rows(program.batch, torch.tensor([i])))
        alone = log_likelihood(one.model, one.guide, one.batch, num_particles=k, **given)
        error = sum((1 / r.effective_sample_size[j] - 1 / k).sqrt() for r, j in ((likelihood, i), (alone, 0)))
        check_mean(likelihood.per_datum[i], alone.per_datum[0], error, f"datum {i} among others\n{program}")
        log_w = torch.cat([total(plain_weights(one, 1, seed=s)) for s in range(200)])  # (R, 1)
        right, few = (value[0] for value in mean_weight(log_w))
        check_mean(alone.per_datum[0], right, few + error, f"datum {i} alone\n{program}")
        if log_w.isfinite().all():
            check_mean(bound.per_datum[i], log_w.mean(), 2 * log_w.std() / 200**0.5, f"elbo of datum {i}\n{program}")


# ----------------------------------------------------------------- annealing
def annealing_is_unbiased(program):
    given = {"num_temperatures": 8, "num_leapfrog": 2, "compile": "off"}
    for chains, seed in ((300, 0), (3000, 1)):
        result = ais(program.model, program.guide, program.batch, num_chains=chains, seed=seed, **given)
        found, error = mean_weight(result.log_weights)
        try:
            check_mean(found, program.exact, error + error**2, "log of the chains' mean weight")
            return
        except AssertionError as failure:
            last = failure
    raise last


def can_be_annealed(program):
    return bool(program.marks & CONTINUOUS) and not program.marks & {"AutoNormal form", "Delta site in the model"}


@seeds(0, 24, 6)
def test_annealing_is_unbiased(block):
    each(block, annealing_is_unbiased, can_be_annealed)


@pytest.mark.slow
@seeds(24, 200, 8)
def test_annealing_is_unbiased_for_more_programs(block):
    each(block, annealing_is_unbiased, can_be_annealed)


def right_or_refused(program):
    try:
        annealing_is_unbiased(program)
    except InputError as error:
        assert "start" in str(error) or "point mass" in str(error), "the refusal names no remedy"


@seeds(0, 40, 20)
def test_annealing_of_point_masses_is_right_or_refused(block):
    each(block, right_or_refused, lambda p: bool(p.marks & CONTINUOUS) and not can_be_annealed(p))
