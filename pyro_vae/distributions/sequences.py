"""A distribution over sequences of tokens that end, one token after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import cross_entropy, pad

from pyro_vae.distributions.autoregressive import Autoregressive, Condition, Steps, draw
from pyro_vae.errors import positive
from pyro_vae.runtime import shapes_may_follow

AT_ONCE = 2**22  # logits that are computed together where no gradient is wanted


class PaddedText(constraints.Constraint):
    """Words 1 … num_words - 1, then pads, 0, to the end.

    Args:
        num_words: with the pad.
        ends: True: the last place is a pad; None: words may fill all places; False: they do.

    Example:
        >>> import torch
        >>> from pyro_vae.distributions import PaddedText
        >>> PaddedText(num_words=5).check(torch.tensor([[4, 1, 0], [0, 1, 4]]))
        tensor([ True, False])
        >>> PaddedText(num_words=5, ends=True).check(torch.tensor([[4, 1, 0], [4, 1, 1]]))
        tensor([ True, False])
    """

    is_discrete = True
    event_dim = 1

    def __init__(self, num_words: int, ends: bool | None = None) -> None:
        self.num_words, self.ends = num_words, ends
        super().__init__()

    def __repr__(self) -> str:
        words = f"words 1 … {self.num_words - 1}"
        if self.ends is False:
            return f"PaddedText({words}, and no 0)"
        return f"PaddedText({words}, and 0 behind the end{', at least one' if self.ends else ''})"

    def check(self, value: Tensor) -> Tensor:
        """Whether each text ``(..., T)`` is one, ``(...,)``."""
        known = ((value >= (1 if self.ends is False else 0)) & (value < self.num_words)).all(-1)
        known = known & ~((value[..., :-1] == 0) & (value[..., 1:] != 0)).any(-1)
        return known & (value[..., -1] == 0) if self.ends else known


class SequenceNetwork(Protocol):
    """The network of a distribution over sequences. A batch is one dimension, also in the condition.

    Attributes:
        ends: True: the last of the T places is the end, 0, if no other is; None: tokens may fill all places; False:
            they do, and 0 has no probability.
    """

    ends: bool | None

    def hidden(self, tokens: Tensor, condition: Condition) -> Tensor:
        """What the logits are made of at each place, given the tokens before it, ``(batch, L, width)``.

        Args:
            tokens: the first L, ``(batch, L)``; what stands behind a 0 is of no consequence.
            condition: by name.
        """

    def output(self, hidden: Tensor) -> Tensor:
        """Logits ``(..., V)`` of ``(..., width)``."""

    def steps(self, batch: int, condition: Condition) -> SequenceSteps:
        """The memory for a batch of new sequences."""


class SequenceSteps(Steps, Protocol):
    """The memory of sequences in the making, which can go on with others."""

    def take(self, rows: Tensor) -> None:
        """Go on with other sequences, as many as before: the i-th one is what ``rows[i]`` was."""


class Beams(NamedTuple):
    """What a beam search has found, the most probable first.

    Attributes:
        tokens: sequences, int64 ``(*batch_shape, width, T)``.
        log_prob: of each, nats, ``(*batch_shape, width)``; minus infinity where there are no more sequences.
    """

    tokens: Tensor
    log_prob: Tensor


class Sequences(Autoregressive):
    r"""Sequences of tokens 1 … V-1, given a condition c; 0 is the end and stands in all places behind it.

    .. math::
        p(x | c) = \prod_{t \le n + 1} \mathrm{softmax}(\ell_t(x_{<t}, c) / T)_{x_t}

    with n tokens, the end being x_{n+1} = 0. What comes behind is certain, so that padding, or more of it, changes no
    probability; at the last place the end is certain (``network.ends``). ``log_prob`` is one pass, in nats. On a CPU
    it looks no further than the longest of its sequences, and makes no logits behind the end of any; elsewhere, and in
    a graph that is recorded, at all places. ``sample`` computes each place once, and on a CPU stops when all sequences
    have ended.

    Args:
        network: gives logits; a :class:`SequenceNetwork`.
        num_codes: V, 0 included.
        shape: (T,).
        condition, condition_shape, device, validate_args: see :class:`~pyro_vae.distributions.Autoregressive`.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import RecurrentTokens
        >>> likelihood = RecurrentTokens((5,), num_tokens=7, features=4, embedding_dim=3, hidden_dim=8)
        >>> p = likelihood(torch.zeros(2, 4))
        >>> p.log_prob(torch.tensor([[3, 6, 0, 0, 0], [1, 0, 0, 0, 0]])).shape, p.sample((3,)).shape
        (torch.Size([2]), torch.Size([3, 2, 5]))
    """

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Tokens, then 0."""
        return PaddedText(self.num_codes, self.network.ends)

    def counted(self, value: Tensor) -> Tensor:
        """Where tokens of sequences ``(..., T)`` are, and one end, bool ``(..., T)``: what a perplexity counts."""
        if self.network.ends is False:
            return torch.ones_like(value, dtype=torch.bool)
        return pad(value[..., :-1] != 0, (1, 0), value=True)

    def uncertain(self, value: Tensor) -> Tensor:
        """Those of the :meth:`counted` places that are not certain, ``(..., T)``: all but an end at the last place."""
        places = self.counted(value)
        return pad(places[..., :-1], (0, 1)) if self.network.ends else places

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of sequences in nats, shape ``broadcast(value's, batch_shape)``.

        Args:
            value: int64 ``(..., T)``.
        """
        if self._validate_args:
            self._validate_sample(value)
        leading = value.shape[:-1]
        needed = torch.broadcast_shapes(leading, self.condition_shape)  # what differs; the rest is repetition
        counted = self.uncertain(value)
        follow = shapes_may_follow(value)
        length = int(counted.sum(-1).amax()) if follow and value.numel() else value.shape[-1]
        tokens, counted = (t.expand(*needed, -1)[..., :length].reshape(-1, length) for t in (value, counted))
        hidden = self.network.hidden(tokens, self._condition(needed))  # (batch, L, width)
        if follow and not bool(counted.all()):
            nats = self._only(hidden, tokens, counted)
        else:
            nats = self._nats(hidden.flatten(0, 1), tokens.flatten()).view_as(tokens)
            nats = torch.where(counted, nats, 0.0)
        possible = self.support.check(value).expand(needed)
        nats = torch.where(possible, nats.sum(1).reshape(needed), -torch.inf)
        return nats.expand(torch.broadcast_shapes(needed, self.batch_shape))

    def logits(self, value: Tensor) -> Tensor:
        """The network's logits at all places of sequences, each given the tokens before it.

        Args:
            value: int64 ``(..., T)``; of what stands behind a 0 the logits say nothing.

        Returns:
            ``(..., T, V)``, with the batch shape that the value's leading dimensions broadcast to.
        """
        needed = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        tokens = value.expand(*needed, -1).reshape(-1, value.shape[-1])
        logits = self._tempered(self.network.output(self.network.hidden(tokens, self._condition(needed))).mT).mT
        return logits.unflatten(0, needed) if needed else logits[0]

    def _only(self, hidden: Tensor, tokens: Tensor, counted: Tensor) -> Tensor:
        """log p of the tokens ``(batch, L)`` at the places that count, and 0 elsewhere."""
        places = counted.flatten().nonzero().squeeze(1)
        nats = self._nats(hidden.flatten(0, 1).index_select(0, places), tokens.flatten()[places])
        return nats.new_zeros(tokens.numel()).index_copy(0, places, nats).view_as(tokens)

    def _nats(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """log p of tokens ``(n,)``, of ``(n, width)``."""
        rows = max(1, AT_ONCE // self.num_codes)
        if len(tokens) <= rows or (torch.is_grad_enabled() and hidden.requires_grad):
            return -cross_entropy(self._tempered(self.network.output(hidden)), tokens, reduction="none")
        return torch.cat([self._nats(*part) for part in zip(hidden.split(rows), tokens.split(rows), strict=True)])

    @torch.no_grad()
    def beam_search(self, width: int) -> Beams:
        """The most probable sequences that are found by keeping the most probable beginnings of each length.

        It is exact where no beginning is lost: with a width of at least all the sequences there are. Else the best one
        may be missed. The probabilities are those of ``log_prob``.

        Args:
            width: beginnings that are kept.

        Raises:
            InputError: if the width is not a positive integer.

        Source: Graves 2012, arXiv:1211.3711.
        """
        positive("width", width)
        count, length = math.prod(self.batch_shape), self.event_shape[0]
        steps = self.network.steps(count * width, self._condition((*self.batch_shape, width), 1))
        tokens = torch.zeros(count, width, length, dtype=torch.int64, device=self.device)
        score = torch.full((count, width), -math.inf, device=self.device)
        score[:, 0] = 0.0  # one beginning, the empty one
        first, ended = torch.arange(count, device=self.device)[:, None] * width, None
        for i in range(length - 1 if self.network.ends else length):
            nats = self._tempered(steps(i, tokens.flatten(0, 1))).log_softmax(1).unflatten(0, (count, width))
            if ended is not None:
                certain = torch.full_like(nats[0, 0], -math.inf)
                certain[0] = 0.0
                nats = torch.where(ended.unsqueeze(-1), certain, nats)  # (count, width, V)
            score, best = (score.to(nats).unsqueeze(-1) + nats).flatten(1).topk(width)
            parents, token = best // self.num_codes, best % self.num_codes  # (count, width)
            tokens = tokens.gather(1, parents.unsqueeze(-1).expand_as(tokens))
            tokens[..., i] = token
            if self.network.ends is not False:
                ended = token == 0
                if shapes_may_follow(ended) and bool(ended.all()):
                    break
            steps.take((first + parents).flatten())
        shape = (*self.batch_shape, width)
        return Beams(tokens.reshape(*shape, length), score.reshape(shape))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw sequences, int64 ``(*sample_shape, *batch_shape, T)``."""
        leading = torch.Size(sample_shape) + self.batch_shape
        batch, length = math.prod(leading), self.event_shape[0]
        tokens = torch.zeros(batch, length, dtype=torch.int64, device=self.device)
        steps, going = self.network.steps(batch, self._condition(leading)), None
        for i in range(length - 1 if self.network.ends else length):
            token = draw(self._tempered(steps(i, tokens)))
            tokens[:, i] = token if going is None else torch.where(going, token, 0)
            if self.network.ends is not False:
                going = tokens[:, i] != 0
                if shapes_may_follow(going) and not bool(going.any()):
                    break
        return tokens.reshape(*leading, length)
