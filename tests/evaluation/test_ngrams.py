"""The n-gram language model against enumeration and its formula."""

import itertools
import math

import pytest
import torch

from pyro_vae.errors import InputError
from pyro_vae.evaluation import NGrams


def data(ends):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 4, (12, 4), generator=generator)
    if ends:
        lengths = torch.randint(0, 4, (12, 1), generator=generator)
        x = torch.where(torch.arange(4) < lengths, x, 0)
    return x


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_probabilities_of_all_sequences_of_one_length_add_up_to_1(order):
    grams = NGrams(data(False), num_tokens=4, order=order, ends=False)
    every = torch.tensor(list(itertools.product(range(1, 4), repeat=4)))
    assert grams.log_prob(every).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_of_what_may_follow_add_up_to_1(order):
    grams = NGrams(data(True), num_tokens=4, order=order)
    for history in itertools.product([-1, 1, 2, 3], repeat=3):
        assert sum(grams.probability(history, token) for token in range(4)) == pytest.approx(1, abs=1e-12)
    # all sequences of up to three tokens with their end, and those that have not ended after three
    ended = [torch.tensor([[*s, *[0] * (4 - n)]]) for n in range(4) for s in itertools.product((1, 2, 3), repeat=n)]
    going = torch.tensor(list(itertools.product((1, 2, 3), repeat=4)))
    total = sum(grams.log_prob(x).exp().item() for x in ended) + grams.log_prob(going).exp().sum().item()
    assert total == pytest.approx(1, abs=1e-12)


def test_it_is_witten_and_bell_s_formula():
    grams = NGrams(torch.tensor([[1, 2, 0], [1, 1, 0]]), num_tokens=3, order=2)
    # tokens: 1 three times, 2 once, the end twice; three different ones
    single = {t: (c + 3 / 3) / (6 + 3) for t, c in {0: 2, 1: 3, 2: 1}.items()}
    after_1 = {t: (1 + 3 * single[t]) / (3 + 3) for t in single}  # 1, 2 and the end, once each
    after_2 = {0: (1 + 1 * single[0]) / 2}
    at_start = {1: (2 + 1 * single[1]) / 3}
    expected = math.log(at_start[1] * after_1[2] * after_2[0])
    assert grams.log_prob(torch.tensor([[1, 2, 0]])).item() == pytest.approx(expected, abs=1e-12)


def test_what_stands_behind_an_end_is_not_looked_at_and_bad_sequences_are_refused():
    grams = NGrams(data(True), num_tokens=4)
    a, b = torch.tensor([[1, 0, 0, 0]]), torch.tensor([[1, 0]])
    assert grams.log_prob(a) == grams.log_prob(b)
    for x in (torch.tensor([[4]]), torch.tensor([[1.0]]), torch.tensor([1])):
        with pytest.raises(InputError):
            grams.log_prob(x)
    with pytest.raises(InputError, match="have an end"):
        NGrams(data(True), num_tokens=4, ends=False)
    with pytest.raises(InputError, match="order must be a positive integer"):
        NGrams(data(True), num_tokens=4, order=0)
