"""The base class of likelihoods of sequences of tokens, each given those before it and a decoder's features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.distributions import PaddedText, Sequences
from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.distributions.sequences import SequenceSteps
from pyro_vae.errors import InputError, below_one, positive
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.networks.recurrent import SequenceDropout, sequence_shape, shifted
from pyro_vae.runtime import shapes_may_follow

FEATURES = "features"  # in the condition
STARTED_BY = 5000  # sequences whose tokens are counted


class TokenLikelihood(Likelihood):
    r"""p(x | f) = prod_t p(x_t | x_<t, f) of tokens 1 … V-1 that end with 0; f are a decoder's features; nats.

    A subclass writes :meth:`read`, which gives ``width`` numbers for each place, of the tokens before it and of f, and
    :meth:`steps`; the logits are linear in these numbers. Sequences of one length without an end (``ends=False``) have
    tokens at all T places; else there are at most T-1 tokens and an end.

    What makes the latents needed, in training alone: word dropout replaces tokens that are read by one learned vector;
    scheduled sampling by draws of the network itself, made in one pass given the data's own tokens before them. With
    it the loss in training is no likelihood; evaluation has none of both.

    ``fit`` lets the logits start at the log of the tokens' shares in training data, once.

    Args:
        data_shape: (T,).
        num_tokens: V, 0 included.
        features: F of the decoder; 0: there is no decoder (:class:`~pyro_vae.models.LanguageModel`).
        width: numbers that a place's logits are made of.
        embedding_dim: of a token that is read.
        ends: whether sequences end with 0.
        dropout: of embeddings, and of what logits are made of, in training; one mask for all places of a sequence.
        word_dropout: probability that a token is not shown to the network, in training.
        scheduled_sampling: probability that a token is replaced by a draw of the network's, in training.

    Raises:
        InputError: for sizes that cannot be, and probabilities that are not from 0 to below 1.

    Source: word dropout: Bowman et al. 2016, arXiv:1511.06349; scheduled sampling: Bengio et al. 2015,
    arXiv:1506.03099; in one pass: Duckworth et al. 2019, arXiv:1906.04331.

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import TokenLikelihood
        >>> class Added(TokenLikelihood):
        ...     def read(self, inputs, features):
        ...         return inputs.cumsum(1)  # (batch, L, width): the sum of all that was read
        >>> p = Added((4,), num_tokens=5, features=0, width=3, embedding_dim=3)(torch.zeros(0))
        >>> p.log_prob(torch.tensor([[2, 1, 0, 0], [4, 0, 0, 0]])).shape
        torch.Size([2])
    """

    num_parameters = 1

    def __init__(
        self,
        data_shape: Sequence[int],
        num_tokens: int,
        features: int,
        width: int,
        embedding_dim: int,
        ends: bool = True,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        scheduled_sampling: float = 0.0,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        for name, size in {"num_tokens": num_tokens, "width": width, "embedding_dim": embedding_dim}.items():
            positive(f"{who}: {name}", size)
        for name, part in {"word_dropout": word_dropout, "scheduled_sampling": scheduled_sampling}.items():
            below_one(f"{who}: {name}", part)
        self.data_shape = sequence_shape(who, data_shape)
        least = 2 if ends else 1
        if num_tokens < 2 or self.data_shape[0] < least:
            raise InputError(
                f"{who}: sequences {'that end ' if ends else ''}need num_tokens of at least 2 (0 is no token) and at "
                f"least {least} places; got num_tokens {num_tokens} and data_shape {self.data_shape}"
            )
        self.num_tokens, self.ends = num_tokens, bool(ends)
        self.features = positive(f"{who}: features", features) if features else 0
        self.dropout = SequenceDropout(below_one(f"{who}: dropout", dropout))
        self.word_dropout, self.scheduled_sampling = word_dropout, scheduled_sampling
        self.support = PaddedText(num_tokens, self.ends)
        self.embedding = nn.Embedding(num_tokens, embedding_dim)  # that of 0 stands before the first token
        self.hidden_word = nn.Parameter(torch.zeros(embedding_dim)) if word_dropout else None
        self.out = nn.Linear(width, num_tokens)
        never = torch.arange(num_tokens) == 0
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))  # at the shares of tokens in data
        self.register_buffer("never", None if ends else never, persistent=False)

    def feature_shape(self, data_shape: Sequence[int]) -> tuple[int, ...]:
        """``(F,)``.

        Raises:
            InputError: if the data have another shape than the likelihood was built for.
        """
        if tuple(data_shape) != self.data_shape:
            raise InputError(
                f"{type(self).__name__} was built for data of shape {self.data_shape}, and these have "
                f"{tuple(data_shape)}"
            )
        return (self.features,)

    def forward(self, features: Tensor, event_dim: int = 1) -> Sequences:
        """The distribution of sequences given features ``(..., F)``.

        Raises:
            InputError: for data that are no sequences, or other features.
        """
        if event_dim != 1 or features.dim() < 1 or features.shape[-1] != self.features:
            raise InputError(
                f"{type(self).__name__} needs features (..., {self.features}) and event_dim 1; got features of shape "
                f"{tuple(features.shape)} and event_dim {event_dim}"
            )
        condition = {FEATURES: features} if self.features else {}
        shape = self.num_tokens, self.data_shape
        return Sequences(self, *shape, condition, features.shape[:-1], features.device)

    @property
    def training_remark(self) -> str:
        """What ``fit`` is to say in the log of the loss in training; "": nothing."""
        if not self.scheduled_sampling:
            return ""
        return (
            f"{type(self).__name__}: with scheduled_sampling {self.scheduled_sampling:g} what is minimized in training "
            "is no bound on log p(x); validation and evaluation are without"
        )

    @property
    def data_wanted(self) -> int:
        """How many training data it is to be given by :meth:`take_data`; 0: none any more."""
        return 0 if self.started else STARTED_BY

    @torch.no_grad()
    def take_data(self, x: Tensor) -> None:
        """Let the logits start at the log of the tokens' shares in data, int64 ``(N, T)``, each counted once more."""
        counted = self(x.new_zeros(self.features, dtype=self.out.bias.dtype)).counted(x)
        counts = torch.bincount(x[counted], minlength=self.num_tokens) + 1.0
        self.out.bias.copy_((counts / counts.sum()).log())
        self.started.fill_(True)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """Zeros ``(F,)``: the features are no parameters of x, and a mean of tokens says nothing."""
        return mean.new_zeros(self.features)

    def read(self, inputs: Tensor, features: Tensor | None) -> Tensor:
        """What the logits are made of at each place, ``(batch, L, width)``.

        Args:
            inputs: embeddings of what stands before each place, ``(batch, L, embedding_dim)``, of which place t may
                look at those up to its own.
            features: ``(batch, F)``; None: there are none.
        """
        raise NotImplementedError

    def steps(self, batch: int, condition: Condition) -> SequenceSteps:
        """The memory for a batch of new sequences."""
        raise NotImplementedError

    def before(self, tokens: Tensor) -> Tensor:
        """What is read at each place of sequences ``(batch, L)``: the token before it, 0 at the start."""
        return shifted(tokens)

    def hidden(self, tokens: Tensor, condition: Condition) -> Tensor:
        """What the logits are made of, ``(batch, L, width)``, of the first L places ``(batch, L)``: one pass.

        Raises:
            RuntimeError: where it is being recorded for a CPU, and sequences have ends.
        """
        if self.ends and tokens.device.type == "cpu" and not shapes_may_follow(tokens):
            raise RuntimeError(
                "on a CPU sequences are read to the last end in their batch alone, which a graph could not do, and "
                "which saves more time than a graph"
            )
        features = condition.get(FEATURES)
        before = self.before(tokens)
        if self.training and self.scheduled_sampling:
            with torch.no_grad():
                logits = self.output(self._read(before, features))
                logits[..., 0] = -torch.inf  # what comes after an end is of no interest
                below = logits.softmax(-1).cumsum(-1) <= self._noise(tokens).unsqueeze(-1)  # (batch, L, V)
                drawn = below.sum(-1).clamp(max=self.num_tokens - 1)
            own = self._noise(tokens) < self.scheduled_sampling
            before = self.before(torch.where(own & (tokens != 0), drawn, tokens))
        return self._read(before, features)

    def _noise(self, tokens: Tensor) -> Tensor:
        """Uniform random numbers ``(batch, L)``, the same ones for all L."""
        return torch.rand(len(tokens), *self.data_shape, device=tokens.device)[:, : tokens.shape[1]]

    def _read(self, before: Tensor, features: Tensor | None) -> Tensor:
        inputs = self.embedding(before)  # (batch, L, embedding_dim)
        if self.training and self.hidden_word is not None:
            unseen = self._noise(before) < self.word_dropout
            inputs = torch.where((unseen & (before != 0)).unsqueeze(-1), self.hidden_word, inputs)
        return self.dropout(self.read(self.dropout(inputs), features))

    def output(self, hidden: Tensor) -> Tensor:
        """Logits ``(..., V)`` of ``(..., width)``."""
        return nn.functional.linear(hidden, self.out.weight, self.bias)

    @property
    def bias(self) -> Tensor:
        """What logits are where the rest is zero, ``(V,)``: minus infinity at 0 where sequences have no end."""
        return self.out.bias if self.never is None else self.out.bias.masked_fill(self.never, -torch.inf)
