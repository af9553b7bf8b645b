"""The truth of random programs, held against other ways to it; and what kinds of programs there are."""

from collections import Counter

import pytest
import random_latents
import random_plates
import random_states
import torch
from exact_values import mean_weight, plain_weights, total
from laws import seeds
from random_programs import batch_dependent_program, random_program

DEFAULT = 300  # seeds that the default run takes


def check_truth(program, draws):
    """Weights from the guide by Pyro alone and likelihoods of torch's draws from the prior have the mean p(x)."""
    ways = [(total(plain_weights(program, draws)), program.expected), (program.sampled, program.exact)]
    for way, right in ways:
        torch.manual_seed(program.seed)
        found, error = mean_weight(way(draws) if callable(way) else way)
        assert ((found - right).abs() < 5.5 * error + 1e-4).all(), f"{program}\n{found - right}, errors {error}"


@seeds(0, 30)
def test_exact_values_against_monte_carlo(block):
    for seed in block:
        program = random_program(seed)
        if program.sampled is not None:
            check_truth(program, 10_000)


@pytest.mark.slow
@seeds(30, 400)
def test_exact_values_against_more_monte_carlo(block):
    for seed in block:
        program = random_program(seed)
        if program.sampled is not None:
            check_truth(program, 100_000)


@seeds(0, 40, 20)
def test_exact_values_do_not_depend_on_the_grid(block, monkeypatch):
    first = [random_program(seed).exact for seed in block]
    for module in (random_latents, random_states, random_plates):
        monkeypatch.setattr(module, "ONE", 1000)
        monkeypatch.setattr(module, "TWO", 190, raising=False)
    for seed, value in zip(block, first, strict=True):
        program = random_program.__wrapped__(seed)
        assert (program.exact - value).abs().max() < 1e-6, program


def test_a_seed_always_makes_the_same_program():
    for seed in range(20):
        one, two = random_program(seed), random_program.__wrapped__(seed)
        assert one.source == two.source
        assert all(torch.equal(one.batch[name], two.batch[name]) for name in one.batch)
        assert torch.equal(one.exact, two.exact)


def test_the_guide_says_whether_the_estimate_is_random():
    for seed in range(DEFAULT):
        program = random_program(seed)
        if program.deterministic:
            w = total(plain_weights(program, 10))
            assert (w - program.expected).abs().max() < 1e-4, program


def test_all_kinds_occur_often():
    programs = [random_program(seed) for seed in range(DEFAULT)]
    found = Counter(mark for program in programs for mark in program.marks)
    rare = {kind: found[kind] for kind, least in KINDS.items() if found[kind] < least}
    assert not rare
    assert {program.refusal for program in programs} == {"never", "allowed"}


def test_programs_of_the_batch_are_not_functions_of_a_datum():
    for seed in range(20):
        program = batch_dependent_program(seed)
        assert program.refusal == "required"


KINDS = {  # and how many of the default seeds are of the kind, at least
    "no latents": 4,
    "normal": 20,
    "lognormal": 8,
    "gamma": 8,
    "exponential": 8,
    "beta": 8,
    "MultivariateNormal": 8,
    "hierarchy": 15,
    "bottom-up guide": 5,
    "AutoNormal form": 10,
    "guide wider than the support": 10,
    "Categorical": 8,
    "OneHotCategorical": 8,
    "Bernoulli": 8,
    "two discrete": 8,
    "discrete to continuous": 8,
    "point mass": 10,
    "exact guide": 15,
    "Delta site in the model": 8,
    "inner plate": 30,
    "pooled inner latents": 8,
    "mask inside": 15,
    "mask constant": 10,
    "mask outside": 15,
    "mask handler": 15,
    "mask on inner plate: latents and data": 10,
    "mask on inner plate: data": 4,
    "constant mask on inner plate": 4,
    "several data sites": 40,
    "site not named as its argument": 25,
    "required context": 30,
    "optional context": 20,
    "context in the prior": 10,
    "factor": 15,
    "rows only": 60,
    "function": 40,
    "nn.Module": 30,
    "PyroModule": 30,
    "methods": 30,
    "pyro.module": 8,
}
