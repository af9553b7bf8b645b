"""Sampling codes: each position computed once from memory, against a full pass of the network per position.

Both variants draw from the same network with the same random numbers. The naive one computes all positions for each of
them, which takes minutes on large grids: then only some of its passes are timed, spread over the sample, and their time
is scaled to all positions ("estimated" in the row tells how many there were). Ratio is time over the naive one's;
"speedup" is its inverse.
"""

from __future__ import annotations

import math
from typing import Any

import common
import torch
from torch import Tensor

from pyro_vae.distributions import Autoregressive
from pyro_vae.distributions.autoregressive import draw
from pyro_vae.priors import AutoregressivePrior, GatedPixelCNN, WaveNet

CODES, CHANNELS, BATCH = 512, 64, 16


@torch.no_grad()
def naive(prior: Autoregressive, batch: int, passes: int | None = None) -> Tensor:
    """Samples by one full pass per position, ``(batch, *shape)``; of some positions only if ``passes`` is given."""
    positions = math.prod(prior.event_shape)
    codes = torch.zeros(batch, positions, dtype=torch.int64, device=prior.device)
    every = 1 if passes is None else positions // passes
    for i in range(0, positions, every):
        logits = prior.network.logits(codes.reshape(batch, *prior.event_shape), {})
        codes[:, i] = draw(logits.flatten(2)[:, :, i])
    return codes.reshape(batch, *prior.event_shape)


def same_samples(prior: Autoregressive, batch: int) -> float:
    """The fraction of codes in which both variants agree (rounding may turn a close draw)."""
    results = []
    for sample in (lambda: prior.sample((batch,)), lambda: naive(prior, batch)):
        torch.manual_seed(1)
        results.append(sample())
    return (results[0] == results[1]).float().mean().item()


def rows_of(case: str, network: AutoregressivePrior, passes: int, repeats: int, device: str) -> list[dict[str, Any]]:
    """Both variants on one network; ``passes`` bounds how many passes of the naive one are timed."""
    prior, positions = network.to(device).eval()(), math.prod(network.shape)
    passes = min(passes, positions)
    while positions % passes:
        passes -= 1
    variants = {"cached": lambda: prior.sample((BATCH,)), "naive": lambda: naive(prior, BATCH, passes)}
    rows = common.interleaved(case, variants, "naive", repeats, device)
    scale = positions / passes
    for row in rows:
        if row["variant"] == "naive":
            row["median_ms"] = round(row["median_ms"] * scale, 3)
            if passes < positions:
                row["estimated"] = f"from {passes} of {positions} passes"
        else:
            row["ratio"] = round(row["ratio"] / scale, 6)
            row["speedup"] = round(1 / row["ratio"], 1)
    return rows


def main() -> None:
    parser = common.arguments(__doc__)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    agreed = same_samples(GatedPixelCNN(CODES, (8, 8), channels=CHANNELS).to(options.device).eval()(), BATCH)
    assert agreed > 0.99, f"cached and naive samples agree in only {agreed:.1%} of the codes"
    repeats, passes = (2, 2) if options.quick else (5, 256)
    rows = []
    for side in (8, 16, 32):
        network = GatedPixelCNN(CODES, (side, side), channels=CHANNELS)
        few = passes if options.quick or side <= 16 else 8
        rows += rows_of(f"PixelCNN {side}x{side}", network, few, repeats, options.device)
    attending = GatedPixelCNN(CODES, (16, 16), channels=CHANNELS, attention_heads=4)
    rows += rows_of("PixelCNN + attention 16x16", attending, min(passes, 16), repeats, options.device)
    sequence = WaveNet(CODES, (256,), channels=CHANNELS)
    rows += rows_of("WaveNet 256", sequence, min(passes, 16), repeats, options.device)
    common.report(rows, options)


if __name__ == "__main__":
    main()
