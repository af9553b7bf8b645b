"""The dataset ``grammar``: captions of a probabilistic grammar, whose probabilities and entropy are known exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

from pyro_vae.data.dataset import RawData
from pyro_vae.data.registry import source
from pyro_vae.data.texts import Reading, text_data
from pyro_vae.data.tokenizer import normalized
from pyro_vae.data.vocabulary import WordVocabulary
from pyro_vae.errors import InputError

Rules = Mapping[str, Sequence[tuple[float, str]]]  # symbol -> probabilities and what it becomes, symbols and words


@dataclass(frozen=True)
class Grammar:
    """A probabilistic context-free grammar without recursion, whose sentences have one derivation each.

    .. math:: p(\\text{sentence}) = \\prod_{\\text{rules of its derivation}} p(\\text{rule}), \\qquad
        H(A) = \\sum_r p_r \\Big( -\\log p_r + \\sum_{B \\in r} H(B) \\Big)

    What is no symbol of a rule is a word.

    Args:
        rules: for every symbol, what it becomes, with probabilities that add up to 1.
        start: the symbol of a sentence.

    Raises:
        InputError: if the probabilities of a symbol do not add up to 1, or a symbol becomes itself.

    Example:
        >>> from pyro_vae.data.sources.grammar import Grammar
        >>> grammar = Grammar({"S": [(0.5, "THING falls"), (0.5, "THING stays")], "THING": [(1.0, "it")]}, "S")
        >>> grammar.log_prob("it falls")
        -0.6931471805599453
        >>> grammar.entropy()
        0.6931471805599453
    """

    rules: Rules
    start: str = "SENTENCE"

    def __post_init__(self) -> None:
        """Check the rules."""
        for symbol, choices in self.rules.items():
            if not math.isclose(sum(p for p, _ in choices), 1.0, abs_tol=1e-9) or min(p for p, _ in choices) <= 0:
                raise InputError(f"the rules of {symbol} must have probabilities above 0 that add up to 1")
        self._check_ends(self.start, ())

    def _check_ends(self, symbol: str, above: tuple[str, ...]) -> None:
        if symbol in above:
            raise InputError(f"{symbol} becomes itself, and its sentences would have no longest one")
        for _, symbols in self.rules.get(symbol, ()):
            for each in symbols.split():
                self._check_ends(each, (*above, symbol))

    def draw(self, generator: Random) -> str:
        """A sentence, its words divided by spaces."""
        return " ".join(self._drawn(self.start, generator))

    def log_prob(self, sentence: str) -> float:
        """log p of a sentence in nats, summed over its derivations; -inf for what is none of the grammar.

        Args:
            sentence: words with or without spaces around punctuation, ``"a circle is red."``.
        """
        words = tuple(WordVocabulary.pieces(normalized(sentence)))
        known: dict[tuple[str, int], dict[int, float]] = {}
        p = self._ends(self.start, 0, words, known).get(len(words), 0.0)
        return math.log(p) if p > 0 else -math.inf

    def entropy(self) -> float:
        """The entropy of a sentence in nats, -E log p, which no model's mean log-likelihood can exceed."""
        return self._entropies[self.start]

    def sentences(self) -> Iterator[tuple[str, float]]:
        """All sentences with their probabilities."""
        return ((" ".join(words), p) for words, p in self._all(self.start))

    def _drawn(self, symbol: str, generator: Random) -> Iterator[str]:
        if symbol not in self.rules:
            yield symbol
            return
        u, (*others, (_, last)) = generator.random(), self.rules[symbol]
        for p, symbols in others:
            u -= p
            if u < 0:
                last = symbols
                break
        for each in last.split():
            yield from self._drawn(each, generator)

    def _ends(
        self, symbol: str, begin: int, words: tuple[str, ...], known: dict[tuple[str, int], dict[int, float]]
    ) -> dict[int, float]:
        """Where what a symbol becomes can end that begins at a word, with the probability that it is those words."""
        if symbol not in self.rules:
            return {begin + 1: 1.0} if words[begin : begin + 1] == (symbol,) else {}
        if (symbol, begin) not in known:
            found: dict[int, float] = {}
            for p, symbols in self.rules[symbol]:
                reached = {begin: p}
                for each in symbols.split():
                    after: dict[int, float] = {}
                    for place, so_far in reached.items():
                        for end, more in self._ends(each, place, words, known).items():
                            after[end] = after.get(end, 0.0) + so_far * more
                    reached = after
                for end, total in reached.items():
                    found[end] = found.get(end, 0.0) + total
            known[symbol, begin] = found
        return known[symbol, begin]

    @cached_property
    def _entropies(self) -> dict[str, float]:
        found: dict[str, float] = {}

        def of(symbol: str) -> float:
            if symbol not in found:
                found[symbol] = sum(p * (-math.log(p) + sum(map(of, r.split()))) for p, r in self.rules.get(symbol, ()))
            return found[symbol]

        of(self.start)
        return found

    def _all(self, symbol: str) -> list[tuple[tuple[str, ...], float]]:
        if symbol not in self.rules:
            return [((symbol,), 1.0)]
        found = []
        for p, symbols in self.rules[symbol]:
            so_far: list[tuple[tuple[str, ...], float]] = [((), p)]
            for each in symbols.split():
                more = self._all(each)
                so_far = [(first + then, a * b) for first, a in so_far for then, b in more]
            found += so_far
        return found


CAPTIONS = Grammar(
    {
        "SENTENCE": [(0.1, "ONE is COLOUR ."), (0.05, "SEVERAL are COLOUR ."), (0.85, "PLACED .")],
        "PLACED": [(0.5, "ONE is WHERE"), (0.25, "SEVERAL are WHERE"), (0.25, "LIST are WHERE")],
        "WHERE": [(0.65, "RELATION THING"), (0.2, "just RELATION THING"), (0.15, "far RELATION THING")],
        "THING": [(0.7, "ONE"), (0.3, "SEVERAL")],
        "ONE": [(0.3, "a SHAPE"), (0.3, "a COLOUR SHAPE"), (0.2, "a SIZE SHAPE"), (0.2, "a SIZE COLOUR SHAPE")],
        "SEVERAL": [(0.6, "NUMBER SHAPES"), (0.25, "NUMBER COLOUR SHAPES"), (0.15, "NUMBER SIZE COLOUR SHAPES")],
        "LIST": [(0.6, "a SHAPE and a SHAPE"), (0.4, "a SHAPE , a SHAPE and a SHAPE")],
        "SIZE": [(0.6, "small"), (0.4, "large")],
        "COLOUR": [(0.4, "red"), (0.3, "blue"), (0.2, "green"), (0.1, "yellow")],
        "SHAPE": [(0.5, "circle"), (0.3, "square"), (0.2, "star")],
        "SHAPES": [(0.5, "circles"), (0.3, "squares"), (0.2, "stars")],
        "NUMBER": [(0.7, "two"), (0.3, "three")],
        "RELATION": [(0.3, "to the left of"), (0.3, "to the right of"), (0.25, "above"), (0.15, "below")],
    }
)
SIZES = {"train": 20_000, "validation": 2_000, "test": 5_000}
SEED = 0


def log_prob(sentence: str) -> float:
    """log p of a caption of the dataset ``grammar``, in nats; -inf for what it never says."""
    return CAPTIONS.log_prob(sentence)


def entropy() -> float:
    """The entropy of a caption of the dataset ``grammar``, in nats: no model's expected log p is above minus it."""
    return CAPTIONS.entropy()


@source(
    "grammar",
    "captions such as 'a small red circle is above two stars .' of a grammar with a known entropy (made here); "
    "5 to 19 words, 20,000 train / 2,000 validation / 5,000 test",
)
def load_grammar() -> RawData:
    """Draw captions from :data:`CAPTIONS`, independently, so that some occur twice; seed 0, always the same.

    Returns:
        ``x`` int64 (N, 20), words and at least one 0, per split; the vocabulary.
    """
    generator = Random(SEED)
    texts = {part: [CAPTIONS.draw(generator) for _ in range(size)] for part, size in SIZES.items()}
    return text_data(texts, Reading(), "grammar")
