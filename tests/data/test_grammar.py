"""The captions of a grammar: their probabilities, and their entropy."""

import math
from random import Random

import pytest

from pyro_vae.data import Tokens, load_data
from pyro_vae.data.sources.grammar import CAPTIONS, SIZES, Grammar, entropy, log_prob
from pyro_vae.errors import InputError

RULES = {"S": [(0.25, "A"), (0.75, "A and A")], "A": [(0.5, "x"), (0.3, "y"), (0.2, "very B")], "B": [(1.0, "z")]}
SMALL = Grammar(RULES, "S")


def test_a_small_one_by_hand():
    p = {"x": 0.5, "y": 0.3, "very z": 0.2}
    by_hand = {a: 0.25 * q for a, q in p.items()} | {f"{a} and {b}": 0.75 * p[a] * p[b] for a in p for b in p}
    found = dict(SMALL.sentences())
    assert found == pytest.approx(by_hand) and len(found) == 12
    for sentence, q in by_hand.items():
        assert SMALL.log_prob(sentence) == pytest.approx(math.log(q))
    assert SMALL.entropy() == pytest.approx(-sum(q * math.log(q) for q in by_hand.values()))
    for none in ("", "x and", "x x", "and", "S", "A"):
        assert SMALL.log_prob(none) == -math.inf


def test_ambiguous_sentences_have_the_sum_of_their_derivations():
    grammar = Grammar({"S": [(0.4, "x y"), (0.6, "A")], "A": [(0.5, "x y"), (0.5, "x")]}, "S")
    assert grammar.log_prob("x y") == pytest.approx(math.log(0.4 + 0.6 * 0.5))


def test_draws_have_these_probabilities():
    generator, n = Random(1), 20_000
    drawn = [SMALL.draw(generator) for _ in range(n)]
    for sentence, p in SMALL.sentences():
        assert abs(drawn.count(sentence) / n - p) < 4.5 * math.sqrt(p * (1 - p) / n)


def test_the_captions():
    every = dict(CAPTIONS.sentences())
    assert len(every) == len(list(CAPTIONS.sentences())) == 235_176  # each has one derivation
    assert sum(every.values()) == pytest.approx(1, abs=1e-9)
    assert entropy() == pytest.approx(-sum(p * math.log(p) for p in every.values()), abs=1e-8)
    assert entropy() == pytest.approx(10.0382, abs=1e-4)
    lengths = {len(sentence.split()) for sentence in every}
    assert (min(lengths), max(lengths)) == (5, 19)
    for sentence in Random(0).sample(list(every), 300):
        assert log_prob(sentence) == pytest.approx(math.log(every[sentence]))
        assert ("two " in sentence or "three " in sentence or " are " in sentence) or "s ." not in sentence


def test_the_data_are_drawn_from_it():
    data = load_data("grammar")
    assert {part: len(split) for part, split in data.splits.items()} == SIZES
    vocabulary = data.extra(Tokens)
    assert data.test.shape == (20,) and vocabulary.num_tokens == 31
    texts = vocabulary.decode(data.test.tensors["x"])
    found = [log_prob(text) for text in texts]
    mean = sum(found) / len(found)
    error = math.sqrt(sum((each - mean) ** 2 for each in found)) / len(found)
    assert abs(-mean - entropy()) < 4 * error and error < 0.05
    assert "unknown" in data.description and "<unk>" not in " ".join(texts)
    assert texts[0] == "a green circle is red."  # always the same


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"S": [(0.5, "a")]}, "add up to 1"),
        ({"S": [(1.5, "a"), (-0.5, "b")]}, "above 0"),
        ({"S": [(0.5, "a"), (0.5, "b S")]}, "S becomes itself"),
    ],
)
def test_refusals(rules, message):
    with pytest.raises(InputError, match=message):
        Grammar(rules, "S")
