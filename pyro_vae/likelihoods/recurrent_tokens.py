"""LSTM and GRU decoders as likelihoods of sequences of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.likelihoods.tokens import FEATURES, TokenLikelihood
from pyro_vae.networks.recurrent import Cell, Recurrent, RecurrentSteps


class RecurrentTokens(TokenLikelihood):
    r"""p(x | f) = prod_t p(x_t | x_<t, f) by an LSTM or GRU over tokens; nats.

    .. math::
        h_0 = \tanh(A f + a), \quad h_t = \mathrm{cell}([e_{x_{t-1}}, f], h_{t-1}), \quad
        p(x_t | x_{<t}, f) = \mathrm{softmax}(W h_t + b)

    The features are where the state starts from, and beside every token that is read.

    Args:
        data_shape: (T,).
        num_tokens: V: tokens are 1 … V-1, and 0 is the end.
        features: F of the decoder; 0: there is no decoder.
        embedding_dim: of a token.
        hidden_dim: of a state.
        num_layers: of cells.
        cell: ``"lstm"`` or ``"gru"``.
        ends: False: sequences of one length T, without an end.
        dropout, word_dropout, scheduled_sampling: see :class:`~pyro_vae.likelihoods.tokens.TokenLikelihood`.

    Raises:
        InputError: for sizes that cannot be, an unknown cell, and probabilities that are not from 0 to below 1.

    Source: Bowman et al. 2016, arXiv:1511.06349; features at every step: Yang et al. 2017, arXiv:1702.08139.

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.likelihoods import RecurrentTokens
        >>> likelihood = RecurrentTokens((6,), num_tokens=10, features=4, embedding_dim=8, hidden_dim=16)
        >>> model = pyro_vae.models.VAE((6,), latent_dim=2, likelihood=likelihood, hidden_dims=())
        >>> pyro_vae.sample(model, 5)["x"].shape
        torch.Size([5, 6])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_tokens: int,
        features: int = 32,
        embedding_dim: int = 128,
        hidden_dim: int = 256,
        num_layers: int = 1,
        cell: Cell = "lstm",
        ends: bool = True,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        scheduled_sampling: float = 0.0,
    ) -> None:
        probabilities = {"word_dropout": word_dropout, "scheduled_sampling": scheduled_sampling}
        super().__init__(data_shape, num_tokens, features, hidden_dim, embedding_dim, ends, dropout, **probabilities)
        self.layers = Recurrent(cell, embedding_dim + self.features, hidden_dim, num_layers, dropout)
        self.start = nn.Linear(self.features, self.layers.state_dim) if self.features else None

    def read(self, inputs: Tensor, features: Tensor | None) -> Tensor:
        """States ``(batch, L, hidden_dim)``; see the base class."""
        if features is None or self.start is None:
            return self.layers(inputs)
        everywhere = features.unsqueeze(1).expand(-1, inputs.shape[1], -1)
        return self.layers(torch.cat([inputs, everywhere], -1), self.start(features).tanh())

    def steps(self, batch: int, condition: Condition) -> TokenSteps:
        """The states of new sequences, ``batch`` of them."""
        features = condition.get(FEATURES)
        state = None if features is None or self.start is None else self.start(features).tanh()
        return TokenSteps(self, self.layers.steps(batch, state), features)


class TokenSteps:
    """Logits of one token after another.

    Args:
        likelihood: with the weights that it has now.
        states: of its recurrent layers.
        beside: what stands beside every token that is read, ``(batch, F)``; None: nothing.
    """

    def __init__(self, likelihood: TokenLikelihood, states: RecurrentSteps, beside: Tensor | None) -> None:
        self.likelihood, self.states, self.beside = likelihood, states, beside

    def __call__(self, position: int, tokens: Tensor) -> Tensor:
        """Logits ``(batch, V)`` at a position, given ``(batch, T)`` of which those before it are known."""
        return self.logits(tokens[:, position - 1] if position else tokens.new_zeros(len(tokens)))

    def logits(self, before: Tensor) -> Tensor:
        """Logits ``(batch, V)`` at the next position, given the token before it ``(batch,)``."""
        x = self.likelihood.embedding(before)
        return self.likelihood.output(self.states(x if self.beside is None else torch.cat([x, self.beside], -1)))

    def take(self, rows: Tensor) -> None:
        """Go on with other sequences: the i-th one is what ``rows[i]`` was."""
        self.states.take(rows)
        self.beside = None if self.beside is None else self.beside[rows]
