"""``ais`` against a hand-written annealed importance sampler of the same network.

Both run Hamiltonian Monte Carlo from the guide to the posterior, vectorized over data and chains, and use the
gradient at the end of a trajectory again at the start of the next. The hand-written one knows the network and adapts
its step sizes while it runs; ``ais`` works from the two programs' traces and finds its step sizes beforehand, which
is in its time, and so is recording and compiling. Ratio is time over the reference's: 1 / ratio is the throughput
relative to it; "chain temperatures per second" is that throughput.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import common
import torch
from log_likelihood import SHAPE, pair
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from pyro_vae.evaluation import ais
from pyro_vae.evaluation.annealing.chains import temperatures
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE

CHAINS, LEAPFROG = 16, 3


def hand_written(model: VAE, guide: GaussianGuide, x: Tensor, num_temperatures: int) -> Tensor:
    """Estimates ``(N,)`` as one would write them for this network alone."""
    with torch.no_grad():
        loc, raw = guide.encoder(x).chunk(2, -1)  # (N, latent)
        scale = softplus(raw + math.log(math.expm1(1 - guide.min_scale))) + guide.min_scale
        constant = scale.log().sum(-1)
    pixels = x.flatten(1).expand(CHAINS, -1, -1)

    def densities(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log q and log p (up to the same constant), and their gradients."""
        z = z.requires_grad_()
        logits = model.decoder.mlp(z)
        log_x = -binary_cross_entropy_with_logits(logits, pixels, reduction="none").sum(-1)
        log_p = log_x - 0.5 * z.square().sum(-1)
        (grad_p,) = torch.autograd.grad(log_p.sum(), z)
        z = z.detach()
        standard = (z - loc) / scale
        log_q = -0.5 * standard.square().sum(-1) - constant
        return log_q, log_p.detach(), -standard / scale, grad_p

    beta = temperatures(num_temperatures).tolist()
    z = loc + scale * torch.randn(CHAINS, *loc.shape, device=x.device)
    log_q, log_p, grad_q, grad_p = densities(z)
    log_w = torch.zeros_like(log_q)
    step = torch.full_like(log_q, 0.1)  # (C, N)
    for before, b in itertools.pairwise(beta):
        log_w = log_w + (b - before) * (log_p - log_q)
        momentum = torch.randn_like(z)
        energy = torch.lerp(log_q, log_p, b) - 0.5 * momentum.square().sum(-1)
        new, e = (z, log_q, log_p, grad_q, grad_p), step[..., None]
        momentum = momentum + 0.5 * e * torch.lerp(grad_q, grad_p, b)
        for i in range(LEAPFROG):
            position = new[0].detach() + e * momentum
            new = (position, *densities(position))
            half = 1.0 if i < LEAPFROG - 1 else 0.5
            momentum = momentum + half * e * torch.lerp(new[3], new[4], b)
        after = torch.lerp(new[1], new[2], b) - 0.5 * momentum.square().sum(-1)
        taken = torch.rand_like(after).log() < after - energy
        z = torch.where(taken[..., None], new[0].detach(), z)
        log_q, log_p = torch.where(taken, new[1], log_q), torch.where(taken, new[2], log_p)
        grad_q = torch.where(taken[..., None], new[3], grad_q)
        grad_p = torch.where(taken[..., None], new[4], grad_p)
        step = torch.where(taken, step * 1.02, step * 0.98)
    return log_w.logsumexp(0) - math.log(CHAINS)


def rows_of(num_data: int, num_temperatures: int, repeats: int, device: str) -> list[dict[str, Any]]:
    model, guide = pair(device)
    x = (torch.rand(num_data, *SHAPE, device=device) < 0.3).float()
    options = {"num_chains": CHAINS, "num_temperatures": num_temperatures, "num_leapfrog": LEAPFROG}
    variants = {
        "hand-written": lambda: hand_written(model, guide, x, num_temperatures),
        "ais, recorded": lambda: ais(model, guide, x, **options, compile="graph"),
        "ais, compiled": lambda: ais(model, guide, x, **options, compile="full"),
        "ais, eager": lambda: ais(model, guide, x, **options, compile="off"),
    }
    case = f"{num_data} data x {CHAINS} chains x {num_temperatures}"
    rows = common.interleaved(case, variants, "hand-written", repeats, device)
    for row in rows:
        rate = num_data * CHAINS * num_temperatures / (row["median_ms"] / 1e3)
        row["chain temperatures per second"] = round(rate)
    return rows


def main() -> None:
    parser = common.arguments(__doc__)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.quick:
        rows = rows_of(10, 300, 1, options.device)
    else:
        rows = [*rows_of(10, 2000, 3, options.device), *rows_of(50, 400, 3, options.device)]
    common.report(rows, options)


if __name__ == "__main__":
    main()
