"""An n-gram language model: how likely sequences of tokens are by their neighbours alone."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pyro_vae.data.tokens import END
from pyro_vae.errors import InputError, positive

START = -1  # what stands before the first token


class NGrams:
    r"""p(x) = prod_t p(x_t | the n-1 tokens before it), counted, with Witten-Bell's interpolation; nats.

    .. math::
        p(w | h) = \frac{c(h w) + t(h) \, p(w | h')}{c(h) + t(h)}

    c counts in the data, t(h) is the number of different tokens that follow h there, h' is h without its first token;
    below the single token all tokens are equally probable. So every sequence has a probability above 0, and those of
    what may follow add up to 1. A sequence has the probability of its tokens and of its end, if it has one.

    Args:
        x: sequences to count, int64 ``(N, T)``: tokens 1 … V-1, then 0.
        num_tokens: V.
        order: n.
        ends: whether sequences end with 0; False: they fill all places.

    Raises:
        InputError: for an order that is not positive, and x that are no such sequences.

    Source: Witten and Bell 1991, doi:10.1109/18.87000; as the measure of interpolations: Roberts et al. 2018,
    arXiv:1803.05428, figure 4.

    Example:
        >>> import torch
        >>> from pyro_vae.evaluation import NGrams
        >>> grams = NGrams(torch.tensor([[1, 2, 1, 2, 0], [1, 2, 0, 0, 0]]), num_tokens=4, order=2)
        >>> likely, unlikely = grams.log_prob(torch.tensor([[1, 2, 0, 0, 0], [2, 2, 0, 0, 0]]))
        >>> bool(likely > unlikely)
        True
    """

    def __init__(self, x: Tensor, num_tokens: int, order: int = 5, ends: bool = True) -> None:
        self.num_tokens, self.order, self.ends = num_tokens, positive("order", order), ends
        self.counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for row in self._rows(x):
            for history, token in self._events(row):
                for length in range(len(history) + 1):
                    self.counts[history[length:]][token] += 1
        self.totals = {history: (found.total(), len(found)) for history, found in self.counts.items()}

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability in nats of sequences ``(N, T)``, float64 ``(N,)``."""
        rows = self._rows(x)
        return torch.tensor(
            [sum(self._log(history, token) for history, token in self._events(row)) for row in rows],
            dtype=torch.float64,
        )

    def probability(self, history: Sequence[int], token: int) -> float:
        """p(token | history), of which the last n-1 tokens are looked at."""
        following = self.num_tokens if self.ends else self.num_tokens - 1
        p = 1 / following
        history = tuple(history)[-(self.order - 1) :] if self.order > 1 else ()
        for length in range(len(history), -1, -1):
            known = self.totals.get(history[length:])
            if known is not None:
                total, different = known
                p = (self.counts[history[length:]][token] + different * p) / (total + different)
        return p

    def _log(self, history: tuple[int, ...], token: int) -> float:
        return math.log(self.probability(history, token))

    def _rows(self, x: Tensor) -> list[list[int]]:
        if x.dtype != torch.int64 or x.dim() != 2 or (x.numel() and not 0 <= x.min() <= x.max() < self.num_tokens):
            raise InputError(f"x must be int64 (N, T) of tokens 0 … {self.num_tokens - 1}, got {x.dtype} {x.shape}")
        if not self.ends and bool((x == END).any()):
            raise InputError("x have an end (0), but sequences without ends were said (ends=False)")
        return x.tolist()

    def _events(self, row: Sequence[int]) -> Iterator[tuple[tuple[int, ...], int]]:
        """Each token and the end, with the n-1 tokens before it."""
        history = (START,) * (self.order - 1)
        for token in row:
            yield history, token
            if token == END:
                return
            history = (*history, token)[1:] if history else ()
