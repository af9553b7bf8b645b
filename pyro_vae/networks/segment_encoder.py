"""A recurrent encoder in two levels, of segments and of their sequence: bars of a melody, and the melody."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pyro_vae.errors import InputError, below_one, positive
from pyro_vae.networks.layers import apply_batched, check_event_shape
from pyro_vae.networks.recurrent import Cell, Reader, SequenceDropout, lengths_of, sequence_shape


class SegmentEncoder(nn.Module):
    r"""Tokens to a vector, ``(..., T)`` to ``(..., outputs)``: each segment is read by itself, and then their sequence.

    .. math::
        v_u = [\overrightarrow{h}_{u,n_u}, \overleftarrow{h}_{u,1}], \quad
        e = W [\overrightarrow{g}_m(v), \overleftarrow{g}_1(v)] + b

    with n_u tokens in segment u, and m segments that have any. With ``skip``, all v stand beside the g. The way from
    a token to the vector is T / U + U steps long and not T, and all segments are read at once: quicker, and easier to
    learn, than :class:`~pyro_vae.networks.RecurrentEncoder` of long sequences. What stands behind the end, 0, is not
    looked at.

    Args:
        data_shape: (T,).
        num_tokens: V: tokens are 1 … V-1, and 0 is the end.
        outputs: of the encoder, such as ``2 * latent_dim`` for a :class:`~pyro_vae.guides.GaussianGuide`.
        num_segments: U, of T / U places each (rounded up; the last one has what is left).
        embedding_dim: of a token.
        hidden_dim: of a state h within segments.
        segment_dim: of a state g over segments.
        num_layers: of both levels.
        cell: ``"lstm"`` or ``"gru"``.
        bidirectional: False: both levels read forwards alone.
        dropout: of what each layer reads, in training (one mask for all places).
        skip: True: W reads the vectors v of all segments, too (0 of those without tokens), and not the last states of
            their sequence alone: for sequences in which the u-th segment has a place of its own, as a bar of a tune.

    Raises:
        InputError: for sizes that cannot be, an unknown cell, and a dropout that is no probability below 1.

    Source: hierarchical encoders as in Yang et al. 2016, doi:10.18653/v1/N16-1174; segments as of the decoder of
    MusicVAE, Roberts et al. 2018, arXiv:1803.05428 (whose encoder has one level).

    Example:
        >>> import torch
        >>> from pyro_vae.networks import SegmentEncoder
        >>> encoder = SegmentEncoder((6,), num_tokens=10, outputs=4, num_segments=2, hidden_dim=8, segment_dim=8)
        >>> encoder(torch.tensor([[3, 9, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0]])).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_tokens: int,
        outputs: int,
        num_segments: int,
        embedding_dim: int = 64,
        hidden_dim: int = 128,
        segment_dim: int = 256,
        num_layers: int = 1,
        cell: Cell = "lstm",
        bidirectional: bool = True,
        dropout: float = 0.0,
        skip: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"num_tokens": num_tokens, "outputs": outputs, "embedding_dim": embedding_dim}
        for name, size in (sizes | {"num_segments": num_segments}).items():
            positive(f"SegmentEncoder: {name}", size)
        self.data_shape = sequence_shape("SegmentEncoder", data_shape)
        if num_segments > self.data_shape[0]:
            raise InputError(
                f"SegmentEncoder: each segment has a place at least; got num_segments {num_segments} of "
                f"{self.data_shape[0]} places"
            )
        self.segment_length = -(-self.data_shape[0] // num_segments)
        self.dropout = SequenceDropout(below_one("SegmentEncoder: dropout", dropout))
        self.embedding = nn.Embedding(num_tokens, embedding_dim)
        self.within = Reader(cell, embedding_dim, hidden_dim, num_layers, bidirectional, self.dropout)
        self.over = Reader(cell, self.within.out_dim, segment_dim, num_layers, bidirectional, self.dropout)
        count = -(-self.data_shape[0] // self.segment_length)  # U, but where rounding leaves segments without a place
        self.skip, beside = skip, count * self.within.out_dim if skip else 0
        self.out = nn.Linear(self.over.out_dim + beside, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens, int64 ``(..., T)``, to ``(..., outputs)``.

        Raises:
            InputError: if there are not T of them.
        """
        check_event_shape(x, self.data_shape, "encoder")
        return apply_batched(self._encode, x, 1)

    def _encode(self, x: Tensor) -> Tensor:
        size, lengths = self.segment_length, lengths_of(x)  # (batch,)
        segments = pad(x, (0, -x.shape[1] % size)).unflatten(1, (-1, size))  # (batch, U, size)
        count = segments.shape[1]
        own = (lengths[:, None] - size * torch.arange(count, device=x.device)).clamp(0, size)  # (batch, U)
        vectors = self.within(self.embedding(segments.flatten(0, 1)), own.flatten())  # (batch * U, out_dim)
        vectors = vectors.unflatten(0, (-1, count))  # (batch, U, out_dim)
        read = self.over(vectors, (own > 0).sum(1))
        return self.out(torch.cat([read, vectors.flatten(1)], -1) if self.skip else read)
