"""A transformer that reads sequences of tokens in both directions, as the encoder of a guide."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyro_vae.networks.recurrent import lengths_of, longest, sequence_shape, shifted
from pyro_vae.networks.text_encoder import TextEncoder


class TransformerEncoder(TextEncoder):
    """Tokens to a vector: ``(..., T)`` to ``(..., outputs)``, linear in a mean over tokens and the end.

    What stands behind the end, the first 0, is neither attended to nor averaged over. On a CPU it reads no further than
    the longest sequence of the batch.

    Args:
        data_shape: (T,).
        num_tokens: V: tokens are 1 … V-1, and 0 is the end.
        outputs: of the encoder, such as ``2 * latent_dim`` for a :class:`~pyro_vae.guides.GaussianGuide`.
        width, num_layers, heads: see :class:`~pyro_vae.networks.TextEncoder`.

    Raises:
        InputError: for sizes that cannot be.

    Source: Vaswani et al. 2017, arXiv:1706.03762.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import TransformerEncoder
        >>> encoder = TransformerEncoder((6,), num_tokens=10, outputs=4, width=8, heads=2)
        >>> encoder(torch.tensor([[3, 9, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0]])).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_tokens: int,
        outputs: int,
        width: int = 128,
        num_layers: int = 2,
        heads: int = 4,
    ) -> None:
        (length,) = sequence_shape("TransformerEncoder", data_shape)
        super().__init__(num_tokens, length, width, num_layers, heads, outputs)

    def _encode(self, x: Tensor) -> Tensor:
        x = x[:, : min(longest(lengths_of(x), x) + 1, x.shape[1])]
        there = shifted(x).ne(0)
        there[:, 0] = True  # (batch, L): tokens, and the end
        return self._mean(x, there)
