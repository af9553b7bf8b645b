"""A transformer's block."""

from __future__ import annotations

from torch import Tensor, cat, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from pyro_vae.errors import InputError


class TransformerBlock(nn.Module):
    r"""x' = x + W_o attention(norm x), x'' = x' + W_2 gelu(W_1 norm x'): normalization before each part.

    Maps back to x have no bias (the next maps have one), and start smaller by 1 / sqrt(2 depth).

    Args:
        width: of x.
        heads: the width is divided among them.
        depth: how many blocks there are.
        dropout: of what is added to x, in training.

    Raises:
        InputError: if the heads cannot share the width.

    Source: Radford et al. 2019 (GPT-2); Vaswani et al. 2017, arXiv:1706.03762.
    """

    def __init__(self, width: int, heads: int, depth: int, dropout: float) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise InputError(f"heads must divide the width, {width}, got {heads}")
        self.heads = heads
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.out, self.down):
            layer.weight.data.mul_((2 * depth) ** -0.5)

    def forward(self, x: Tensor, mask: Tensor | None, given: Tensor | None = None) -> Tensor:
        """x'' of N tokens.

        Args:
            x: ``(batch, N, width)``.
            mask: bool ``(N, P + N)``; None: each sees those before it, and itself (P = 0).
            given: keys and values of P tokens before them, ``(batch, 2, heads, P, d)``.
        """
        q, k, v = self.project(x)
        if given is not None:
            k, v = cat([given[:, 0], k], 2), cat([given[:, 1], v], 2)  # (batch, heads, P + N, d)
        return self.add(x, q, k, v, mask)

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values ``(3, batch, heads, N, d)`` of x ``(batch, N, width)``."""
        return self.queries_keys_values(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def add(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, drop: bool = True) -> Tensor:
        """x'', of x and its queries, and all keys and values; ``drop``: with dropout, in training."""
        dropout = self.dropout if drop else nn.Identity()
        seen = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + dropout(self.out(seen.transpose(1, 2).flatten(2)))
        return x + dropout(self.down(gelu(self.up(self.mlp_norm(x)))))
