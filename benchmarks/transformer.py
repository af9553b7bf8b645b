"""Generation of image tokens by a transformer: from a cache, against a full pass per token, and against others' caches.

All have the same size: width 128, depth 4, 4 heads, full attention, 512 codes, no condition; a batch of 16. "naive"
makes a full pass of our network for each token (where that takes minutes, only some passes, spread over the sample, are
timed and their time is scaled to all: "estimated" in the row). "hand-written" is the static-cache transformer below:
preallocated keys and values, one token at a time, torch's attention kernel, the draw by torch.multinomial.
"x-transformers" is that package's cached generation, where it is installed. "sparse" is ours with row, column and
window attention, for comparison. Ratio is time over that of "cached"; of naive it is the speedup.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import common
import torch
from priors import naive
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from pyro_vae.priors import TransformerPrior

CODES, WIDTH, DEPTH, HEADS, BATCH = 512, 128, 4, 4, 16


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, i: int) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).view(len(x), 3, HEADS, 1, -1).unbind(1)  # (batch, heads, 1, d) each
        keys[:, :, i : i + 1], values[:, :, i : i + 1] = k, v
        seen = scaled_dot_product_attention(q, keys[:, :, : i + 1], values[:, :, : i + 1])
        x = x + self.out(seen.reshape(len(x), WIDTH))
        return x + self.down(gelu(self.up(self.mlp_norm(x))))


class HandWritten(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.embedding, self.places = nn.Embedding(CODES + 1, WIDTH), nn.Embedding(length, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(DEPTH))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CODES)

    @torch.no_grad()
    def sample(self, batch: int) -> Tensor:
        cache = self.places.weight.new_empty(DEPTH, 2, batch, HEADS, self.length, WIDTH // HEADS)
        codes = torch.full((batch, self.length + 1), CODES, device=cache.device)  # a first one that is no code
        for i in range(self.length):
            x = self.embedding(codes[:, i]) + self.places.weight[i]
            for layer, (keys, values) in zip(self.layers, cache, strict=True):
                x = layer(x, keys, values, i)
            probabilities = self.head(self.norm(x)).softmax(-1)
            codes[:, i + 1] = torch.multinomial(probabilities, 1).squeeze(1)
        return codes[:, 1:]


def x_transformers(length: int, device: str) -> Callable[[], Tensor] | None:
    """Cached generation of the package, None where it is not installed."""
    if importlib.util.find_spec("x_transformers") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper
    layers = Decoder(dim=WIDTH, depth=DEPTH, heads=HEADS, attn_dim_head=WIDTH // HEADS, attn_flash=True)
    network = TransformerWrapper(num_tokens=CODES + 1, max_seq_len=length + 1, attn_layers=layers)
    wrapped = AutoregressiveWrapper(network).to(device).eval()
    start = torch.full((BATCH, 1), CODES, device=device)
    return lambda: wrapped.generate(start, length, temperature=1.0, filter_logits_fn=lambda logits: logits)


def rows_of(side: int, passes: int, repeats: int, device: str) -> list[dict[str, Any]]:
    length = side * side

    def ours(attention: str) -> Any:
        return (
            TransformerPrior(CODES, (side, side), width=WIDTH, num_layers=DEPTH, heads=HEADS, attention=attention)
            .to(device)
            .eval()()
        )

    full, sparse, written = ours("full"), ours("sparse"), HandWritten(length).to(device).eval()
    variants: dict[str, Callable[[], Any]] = {
        "cached": lambda: full.sample((BATCH,)),
        "sparse": lambda: sparse.sample((BATCH,)),
        "hand-written": lambda: written.sample(BATCH),
        "naive": lambda: naive(full, BATCH, passes),
    }
    theirs = x_transformers(length, device)
    if theirs is not None:
        variants["x-transformers"] = theirs
    rows = common.interleaved(f"{length} tokens", variants, "cached", repeats, device)
    for row in rows:
        if row["variant"] == "naive" and passes < length:
            row["median_ms"] = round(row["median_ms"] * length / passes, 3)
            row["ratio"] = round(row["ratio"] * length / passes, 3)
            row["estimated"] = f"from {passes} of {length} passes"
    return rows


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    repeats = 1 if options.quick else 7
    rows = []
    for side, passes in ((16, 8 if options.quick else 256), (32, 2 if options.quick else 8)):
        rows += rows_of(side, passes, repeats, options.device)
    common.report(rows, options)


if __name__ == "__main__":
    main()
