"""Recurrent networks over sequences of tokens: layers, what they remember from one step to the next, an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, pad

from pyro_vae.errors import InputError, below_one, positive, unknown
from pyro_vae.networks.layers import apply_batched, check_event_shape
from pyro_vae.runtime import shapes_may_follow

Cell = Literal["lstm", "gru"]
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU}


class SequenceDropout(nn.Module):
    """Dropout of features ``(batch, L, dim)`` in training, with one mask for all places of a sequence.

    The masks do not depend on L, so that what a sequence is drawn with does not depend on the others of its batch.

    Args:
        probability: that a feature is left out.

    Source: Gal & Ghahramani 2016, arXiv:1512.05287.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, h: Tensor) -> Tensor:
        """h with some features zero, and the others larger."""
        if not (self.training and self.probability):
            return h
        return h * dropout(torch.ones_like(h[:, :1]), self.probability)


class Recurrent(nn.Module):
    """Layers of LSTM or GRU cells over sequences ``(batch, L, in_dim)``, from a state that is given.

    Args:
        cell: ``"lstm"`` or ``"gru"``.
        in_dim: of what is read at each step.
        hidden_dim: of a layer's state.
        num_layers: how many.
        dropout: of what one layer hands to the next, in training (:class:`SequenceDropout`).

    Attributes:
        state_dim: numbers of the whole state: of each layer h, and c of an LSTM.

    Raises:
        InputError: for sizes that cannot be and an unknown cell.

    Source: Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; Cho et al. 2014, arXiv:1406.1078.
    """

    def __init__(self, cell: Cell, in_dim: int, hidden_dim: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        if cell not in KINDS:
            raise unknown("cell", cell, KINDS)
        for name, size in {"hidden_dim": hidden_dim, "num_layers": num_layers}.items():
            positive(name, size)
        self.parts = 2 if cell == "lstm" else 1
        self.state_dim = self.parts * num_layers * hidden_dim
        in_dims = [in_dim] + (num_layers - 1) * [hidden_dim]
        self.layers = nn.ModuleList(KINDS[cell](size, hidden_dim, batch_first=True) for size in in_dims)
        self.dropout = SequenceDropout(dropout)

    def forward(self, inputs: Tensor, state: Tensor | None = None) -> Tensor:
        """h of the last layer at every step, ``(batch, L, hidden_dim)``.

        Args:
            inputs: ``(batch, L, in_dim)``.
            state: that it starts from, ``(batch, state_dim)``; zeros if None.
        """
        states = [None] * len(self.layers) if state is None else self.parted(state)
        h = inputs
        for i, (layer, own) in enumerate(zip(self.layers, states, strict=True)):
            h = layer(self.dropout(h) if i else h, own)[0]
        return h

    def parted(self, state: Tensor) -> list[Any]:
        """A state ``(batch, state_dim)`` as torch's layers have it: of each h ``(1, batch, hidden_dim)``, or (h, c)."""
        parts = state.unsqueeze(0).chunk(self.parts * len(self.layers), -1)
        if self.parts == 1:
            return [part.contiguous() for part in parts]
        return [(h.contiguous(), c.contiguous()) for h, c in zip(parts[::2], parts[1::2], strict=True)]

    def steps(self, batch: int, state: Tensor | None = None) -> RecurrentSteps:
        """What it remembers of new sequences, that come one step after another."""
        return RecurrentSteps(self, batch, state)


class RecurrentSteps:
    """The state of recurrent layers, moved on by one step at a time; no gradients, and no dropout.

    Args:
        layers: with the weights that they have now.
        batch: how many sequences.
        state: see :meth:`Recurrent.forward`.
    """

    def __init__(self, layers: Recurrent, batch: int, state: Tensor | None) -> None:
        self.lstm = layers.parts == 2
        self.weights = [[w.detach() for w in layer.all_weights[0]] for layer in layers.layers]  # pyright: ignore[reportIndexIssue]
        if state is None:
            state = self.weights[0][0].new_zeros(batch, layers.state_dim)
        states = layers.parted(state.detach())
        self.h = [(part[0] if self.lstm else part)[0] for part in states]  # (batch, hidden_dim) of each layer
        self.c = [part[1][0] for part in states] if self.lstm else []

    def __call__(self, x: Tensor) -> Tensor:
        """h of the last layer, ``(batch, hidden_dim)``, of the next input ``(batch, in_dim)``."""
        for i, weights in enumerate(self.weights):
            if self.lstm:
                self.h[i], self.c[i] = torch.lstm_cell(x, (self.h[i], self.c[i]), *weights)
            else:
                self.h[i] = torch.gru_cell(x, self.h[i], *weights)
            x = self.h[i]
        return x

    def take(self, rows: Tensor) -> None:
        """Go on with other sequences: the i-th one is what ``rows[i]`` was."""
        self.h, self.c = ([part[rows] for part in parts] for parts in (self.h, self.c))


class Reader(nn.Module):
    """The last states of recurrent layers that read sequences ``(batch, L, in_dim)`` in both directions, or forwards.

    Args:
        cell: ``"lstm"`` or ``"gru"``.
        in_dim: of what is read at each step.
        hidden_dim: of a state.
        num_layers: each reads what both directions of the one before it say.
        bidirectional: False: it reads forwards alone.
        dropout: of what each layer reads.

    Attributes:
        out_dim: of the last states, side by side.
    """

    def __init__(
        self, cell: Cell, in_dim: int, hidden_dim: int, num_layers: int, bidirectional: bool, dropout: SequenceDropout
    ) -> None:
        super().__init__()
        positive("num_layers", num_layers)
        directions = 2 if bidirectional else 1
        in_dims = [in_dim] + (num_layers - 1) * [directions * hidden_dim]
        self.layers = nn.ModuleList(
            nn.ModuleList(Recurrent(cell, size, hidden_dim, 1, 0.0) for _ in range(directions)) for size in in_dims
        )
        self.bidirectional, self.out_dim, self.dropout = bidirectional, directions * hidden_dim, dropout

    def forward(self, h: Tensor, lengths: Tensor) -> Tensor:
        """The last states ``(batch, out_dim)``, 0 of what is empty.

        Args:
            h: ``(batch, L, in_dim)``.
            lengths: how much of each is read, ``(batch,)``.
        """
        place = torch.arange(h.shape[1], device=h.device)
        mirrored = lengths[:, None] - 1 - place  # the last one first; behind the end as it is
        mirrored = torch.where(mirrored >= 0, mirrored, place)  # (batch, L), its own inverse
        for i, layer in enumerate(self.layers):
            h, final = self.dropout(h), i + 1 == len(self.layers)
            read = [layer[0](h)]  # pyright: ignore[reportIndexIssue]
            if self.bidirectional:
                backwards = layer[1](_at(h, mirrored))  # pyright: ignore[reportIndexIssue]
                read.append(backwards if final else _at(backwards, mirrored))
            h = torch.cat(read, -1) if not final else h
        last = (lengths - 1).clamp(min=0)[:, None]  # both have read all there
        states = torch.cat([_at(states, last).squeeze(1) for states in read], -1)  # pyright: ignore[reportPossiblyUnboundVariable]
        return torch.where(lengths[:, None] > 0, states, 0.0)


class RecurrentEncoder(nn.Module):
    r"""Tokens to a vector: ``(..., T)`` to ``(..., outputs)``, linear in the last states of two recurrent networks.

    .. math:: e = W [\overrightarrow{h}_n, \overleftarrow{h}_1] + b

    One reads from the first token to the last, the other one backwards; n is the sequence's number of tokens. What
    stands behind the end, 0, is not looked at. On a CPU it reads no further than the longest sequence of the batch.

    Args:
        data_shape: (T,).
        num_tokens: V: tokens are 1 … V-1, and 0 is the end.
        outputs: of the encoder, such as ``2 * latent_dim`` for a :class:`~pyro_vae.guides.GaussianGuide`.
        embedding_dim: of a token.
        hidden_dim: of a state.
        num_layers: each reads what both directions of the one before it say.
        cell: ``"lstm"`` or ``"gru"``.
        bidirectional: False: it reads forwards alone.
        dropout: of embeddings and of what one layer hands to the next, in training (one mask for all places).

    Raises:
        InputError: for sizes that cannot be, an unknown cell, and a dropout that is no probability below 1.

    Source: Schuster & Paliwal 1997, doi:10.1109/78.650093; Bowman et al. 2016, arXiv:1511.06349.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import RecurrentEncoder
        >>> encoder = RecurrentEncoder((6,), num_tokens=10, outputs=4, embedding_dim=8, hidden_dim=16)
        >>> encoder(torch.tensor([[3, 9, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0]])).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_tokens: int,
        outputs: int,
        embedding_dim: int = 128,
        hidden_dim: int = 256,
        num_layers: int = 1,
        cell: Cell = "lstm",
        bidirectional: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"num_tokens": num_tokens, "outputs": outputs, "embedding_dim": embedding_dim, "hidden_dim": hidden_dim}
        for name, size in (sizes | {"num_layers": num_layers}).items():
            positive(f"RecurrentEncoder: {name}", size)
        self.data_shape = sequence_shape("RecurrentEncoder", data_shape)
        self.dropout = SequenceDropout(below_one("RecurrentEncoder: dropout", dropout))
        self.embedding = nn.Embedding(num_tokens, embedding_dim)
        self.reader = Reader(cell, embedding_dim, hidden_dim, num_layers, bidirectional, self.dropout)
        self.out = nn.Linear(self.reader.out_dim, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens, int64 ``(..., T)``, to ``(..., outputs)``.

        Raises:
            InputError: if there are not T of them.
        """
        check_event_shape(x, self.data_shape, "encoder")
        return apply_batched(self._encode, x, 1)

    def _encode(self, x: Tensor) -> Tensor:
        lengths = lengths_of(x)  # (batch,)
        return self.out(self.reader(self.embedding(x[:, : longest(lengths, x)]), lengths))


def sequence_shape(who: str, data_shape: Sequence[int]) -> tuple[int]:
    """The shape (T,) of sequences.

    Raises:
        InputError: for another one.
    """
    if len(data_shape) != 1 or data_shape[0] < 1:
        raise InputError(f"{who} is for sequences of tokens, data of shape (T,); got {tuple(data_shape)}")
    return (int(data_shape[0]),)


def lengths_of(x: Tensor) -> Tensor:
    """How many tokens stand before the first 0 of sequences ``(..., T)``, ``(...,)``."""
    return (x != 0).cumprod(-1).sum(-1)


def longest(lengths: Tensor, x: Tensor) -> int:
    """How many places of x ``(batch, T)`` are to be read: those of the longest sequence, where that can be told."""
    if shapes_may_follow(lengths) and lengths.numel():
        return max(1, int(lengths.amax()))
    return x.shape[1]


def shifted(x: Tensor) -> Tensor:
    """What stands before each place of sequences ``(..., T)``, 0 before the first."""
    return pad(x[..., :-1], (1, 0))


def _at(h: Tensor, places: Tensor) -> Tensor:
    """h ``(batch, L, dim)`` at places ``(batch, n)``: ``(batch, n, dim)``."""
    return h.gather(1, places.unsqueeze(-1).expand(-1, -1, h.shape[-1]))
