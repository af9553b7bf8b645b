"""The merges of byte-pair encoding, some of them left out at random."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from random import Random
from typing import Any

POOL = 64  # tokenizations drawn of a word; captions take from them


class BytePairs:
    """Byte-pair encoding with dropout, of a seed (the library's own has none).

    Args:
        model: the entry ``model`` of a tokenizer of the library ``tokenizers``, as JSON: vocabulary and merges.

    Source: Provilkov et al. 2020, arXiv:1910.13267, algorithm 1.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.numbers: dict[str, int] = model["vocab"]
        self.ranks = {(a, b): rank for rank, (a, b) in enumerate(model["merges"])}

    def merge(self, word: str, dropout: float, generator: Random) -> list[int]:
        """The tokens of one word.

        At every step each pair of neighbours that could be merged is left out with probability ``dropout``; of the
        others the one that was learned first is merged, the leftmost if there are several.
        """
        tokens = list(word)
        while len(tokens) > 1:
            best, at = math.inf, -1
            for place, pair in enumerate(pairwise(tokens)):
                rank = self.ranks.get(pair, math.inf)
                if rank < best and (dropout == 0 or generator.random() >= dropout):
                    best, at = rank, place
            if at < 0:
                break
            tokens[at : at + 2] = [tokens[at] + tokens[at + 1]]
        return [self.numbers[token] for token in tokens]

    def dropped_out(
        self, captions: Sequence[Sequence[str]], num_variants: int, dropout: float, generator: Random
    ) -> Iterator[tuple[tuple[int, int], list[int]]]:
        """Tokens of captions, given as words: ``((caption, variant), tokens)`` of each variant of each caption.

        A word's tokenizations are drawn when they are needed, but no more than 64: later ones are drawn from these.
        """
        drawn: dict[str, list[list[int]]] = defaultdict(list)
        for caption, words in enumerate(captions):
            for variant in range(num_variants):
                row: list[int] = []
                for word in words:
                    pool = drawn[word]
                    if len(pool) < POOL:
                        pool.append(self.merge(word, dropout, generator))
                        row += pool[-1]
                    else:
                        row += pool[int(generator.random() * POOL)]
                yield (caption, variant), row
