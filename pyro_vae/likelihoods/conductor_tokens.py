"""The hierarchical decoder of MusicVAE as a likelihood of sequences of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods.recurrent_tokens import TokenSteps
from pyro_vae.likelihoods.tokens import FEATURES, TokenLikelihood
from pyro_vae.networks.recurrent import Cell, Recurrent


class ConductorTokens(TokenLikelihood):
    r"""p(x | f) of segments (the bars of a melody) that know of each other by the features alone; nats.

    A conductor, which reads no tokens, makes a vector of each segment u; in a segment, a second network starts anew
    from it and reads the segment's own tokens:

    .. math::
        c_u = \mathrm{cell}(f, c_{u-1}), \quad h_{u,0} = \tanh(A c_u + a), \quad
        h_{u,t} = \mathrm{cell}([e_{x_{u,t-1}}, c_u], h_{u,t-1}), \quad
        p(x_{u,t} | x_{u,<t}, f) = \mathrm{softmax}(W h_{u,t} + b)

    With ``skip``, c_u + A_u f stands for c_u: a way from f to each segment that does not lead through the ones before.

    So what a segment has to do with another one goes through the latents. Given f the segments are independent, but for
    the end of a sequence, behind which there is nothing. All of them are read at once, a batch of short sequences.

    Args:
        data_shape: (T,).
        num_tokens: V: tokens are 1 … V-1, and 0 is the end.
        num_segments: U, of T / U places each (rounded up; the last one has what is left).
        features: F of the decoder.
        embedding_dim: of a token.
        conductor_dim: of c.
        hidden_dim: of a state h.
        num_layers: of cells, of the conductor and of the network below.
        cell: ``"lstm"`` or ``"gru"``.
        ends: False: sequences of one length T, without an end.
        dropout, word_dropout, scheduled_sampling: see :class:`~pyro_vae.likelihoods.tokens.TokenLikelihood`.
        skip: True: each segment has a linear map of the features of its own, added to c; not in the paper.

    Attributes:
        segment_length: places of a segment.

    Raises:
        InputError: for sizes that cannot be, no features, an unknown cell, and probabilities that are not from 0 to
            below 1.

    Source: Roberts et al. 2018, arXiv:1803.05428.

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.likelihoods import ConductorTokens
        >>> likelihood = ConductorTokens(
        ...     (8,), num_tokens=5, num_segments=2, features=4, conductor_dim=8, hidden_dim=8, ends=False
        ... )
        >>> model = pyro_vae.models.VAE((8,), latent_dim=2, likelihood=likelihood, hidden_dims=())
        >>> pyro_vae.sample(model, 5)["x"].shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_tokens: int,
        num_segments: int,
        features: int = 128,
        embedding_dim: int = 64,
        conductor_dim: int = 256,
        hidden_dim: int = 256,
        num_layers: int = 1,
        cell: Cell = "lstm",
        ends: bool = True,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        scheduled_sampling: float = 0.0,
        skip: bool = False,
    ) -> None:
        probabilities = {"word_dropout": word_dropout, "scheduled_sampling": scheduled_sampling}
        super().__init__(data_shape, num_tokens, features, hidden_dim, embedding_dim, ends, dropout, **probabilities)
        for name, size in {"num_segments": num_segments, "conductor_dim": conductor_dim}.items():
            positive(f"ConductorTokens: {name}", size)
        if not self.features or num_segments > self.data_shape[0]:
            raise InputError(
                "ConductorTokens: a conductor makes its segments of features, and each has a place at least; got "
                f"features {self.features} and num_segments {num_segments} of {self.data_shape[0]} places"
            )
        self.segment_length = -(-self.data_shape[0] // num_segments)
        self.conductor = Recurrent(cell, self.features, conductor_dim, num_layers, dropout)
        self.skip = nn.Linear(self.features, num_segments * conductor_dim) if skip else None
        self.begin = nn.Linear(self.features, self.conductor.state_dim)
        self.layers = Recurrent(cell, embedding_dim + conductor_dim, hidden_dim, num_layers, 0.0)
        self.start = nn.Linear(conductor_dim, self.layers.state_dim)

    def segments(self, features: Tensor, count: int) -> Tensor:
        """The vectors of the first segments, ``(batch, count, conductor_dim)``, of features ``(batch, F)``."""
        conducted = self.conductor(features.unsqueeze(1).expand(-1, count, -1), self.begin(features).tanh())
        if self.skip is None:
            return conducted
        return conducted + self.skip(features).unflatten(1, (-1, conducted.shape[-1]))[:, :count]

    def before(self, tokens: Tensor) -> Tensor:
        """The token before each place, 0 at the start of each segment."""
        first = torch.arange(tokens.shape[1], device=tokens.device) % self.segment_length == 0
        return super().before(tokens).masked_fill(first, 0)

    def read(self, inputs: Tensor, features: Tensor | None) -> Tensor:
        """States ``(batch, L, hidden_dim)``; see the base class."""
        assert features is not None
        length, size = inputs.shape[1], self.segment_length
        count = -(-length // size)
        inputs = pad(inputs, (0, 0, 0, count * size - length)).unflatten(1, (count, size)).flatten(0, 1)
        conducted = self.segments(features, count).flatten(0, 1)  # (batch * count, conductor_dim)
        everywhere = conducted.unsqueeze(1).expand(-1, size, -1)
        states = self.layers(torch.cat([inputs, everywhere], -1), self.start(conducted).tanh())
        return states.unflatten(0, (-1, count)).flatten(1, 2)[:, :length]

    def steps(self, batch: int, condition: Condition) -> ConductorSteps:
        """The states of new sequences, ``batch`` of them."""
        return ConductorSteps(self, condition[FEATURES])


class ConductorSteps:
    """Logits of one token after another.

    Args:
        likelihood: with the weights that it has now.
        features: ``(batch, F)``.
    """

    def __init__(self, likelihood: ConductorTokens, features: Tensor) -> None:
        self.likelihood = likelihood
        count = -(-likelihood.data_shape[0] // likelihood.segment_length)
        self.segments = likelihood.segments(features, count)
        self.own: TokenSteps | None = None  # of the present segment

    def __call__(self, position: int, tokens: Tensor) -> Tensor:
        """Logits ``(batch, V)`` at a position, given ``(batch, T)`` of which those before it are known."""
        likelihood = self.likelihood
        segment, place = divmod(position, likelihood.segment_length)
        if self.own is None or place == 0:
            conducted = self.segments[:, segment]
            states = likelihood.layers.steps(len(conducted), likelihood.start(conducted).tanh())
            self.own = TokenSteps(likelihood, states, conducted)
        return self.own.logits(tokens[:, position - 1] if place else tokens.new_zeros(len(tokens)))

    def take(self, rows: Tensor) -> None:
        """Go on with other sequences: the i-th one is what ``rows[i]`` was."""
        self.segments = self.segments[rows]
        if self.own is not None:
            self.own.take(rows)
