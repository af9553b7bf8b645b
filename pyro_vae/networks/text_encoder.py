"""A small transformer that reads tokens in both directions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from pyro_vae.errors import InputError, positive
from pyro_vae.networks.layers import apply_batched, check_event_shape

PAD = 0


class TextEncoder(nn.Module):
    """Tokens to a vector: ``(..., T)`` to ``(..., out_dim)``, the mean over tokens of what a transformer makes of them.

    Padding is neither attended to nor averaged over.

    Args:
        vocabulary_size: tokens, the padding 0 included.
        text_length: T.
        width: of the transformer's features.
        num_layers: blocks of attention and an MLP four times as wide, each normalized before.
        heads: the width is divided among them.
        out_dim: features of a text.

    Raises:
        InputError: if the heads cannot share the width, or a size is not positive.

    Source: Vaswani et al. 2017, arXiv:1706.03762.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import TextEncoder
        >>> TextEncoder(vocabulary_size=100, text_length=6, out_dim=16)(torch.randint(100, (5, 6))).shape
        torch.Size([5, 16])
    """

    def __init__(
        self,
        vocabulary_size: int,
        text_length: int,
        width: int = 64,
        num_layers: int = 2,
        heads: int = 4,
        out_dim: int = 64,
    ) -> None:
        super().__init__()
        sizes = {"vocabulary_size": vocabulary_size, "text_length": text_length, "width": width, "out_dim": out_dim}
        for name, size in sizes.items():
            positive(name, size)
        if heads < 1 or width % heads:
            raise InputError(f"heads must divide the width {width}, got {heads}")
        self.text_length = text_length
        self.tokens = nn.Parameter(0.02 * torch.randn(vocabulary_size, width))
        self.places = nn.Parameter(0.02 * torch.randn(text_length, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(num_layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, out_dim)

    def forward(self, text: Tensor) -> Tensor:
        """Map tokens, int64 ``(..., T)``, to features ``(..., out_dim)``.

        Raises:
            InputError: if there are not T tokens.
        """
        check_event_shape(text, (self.text_length,), "text encoder")
        return apply_batched(self._encode, text, 1)

    def _encode(self, text: Tensor) -> Tensor:
        return self._mean(text, text != PAD)

    def _mean(self, text: Tensor, there: Tensor) -> Tensor:
        """Features of texts ``(batch, L)``, of which some places are there, ``(batch, L)``."""
        h = self.tokens[text] + self.places[: text.shape[1]]  # (batch, L, width)
        for block in self.blocks:
            h = block(h, there)
        weight = there.to(h.dtype)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1)
        return self.head(torch.einsum("bt,btw->bw", weight, self.norm(h)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.queries_keys_values, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor, there: Tensor) -> Tensor:
        """One block on h ``(batch, T, width)``; keys are those that are there, ``(batch, T)``."""
        projected = self.queries_keys_values(self.norms[0](h)).unflatten(-1, (3, self.heads, -1))
        q, k, v = projected.permute(2, 0, 3, 1, 4)  # (batch, heads, T, d) each
        seen = scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None])
        h = h + self.out(seen.transpose(1, 2).flatten(2))
        return h + self.narrow(gelu(self.wide(self.norms[1](h))))
