"""``log_likelihood`` against a hand-written vectorized estimator of the same network, and against pythae.

The hand-written one runs the encoder once per datum and the decoder on chunks of particles; it is timed with
several chunk sizes and the fastest is the reference. Ratio is time over the reference's time: 1 / ratio is the
throughput relative to it. ``--memory`` measures the growth of the process's peak resident memory while 10,000
images are evaluated with K = 5000 (on a CPU about ten minutes; with --quick 200 images).
"""

from __future__ import annotations

import math
import resource
import time
from typing import Any

import common
import torch
from peers import pythae_vae
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from pyro_vae.evaluation import log_likelihood
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE

SHAPE, LATENT, HIDDEN = (1, 28, 28), 40, (300, 300)


def pair(device: str) -> tuple[VAE, GaussianGuide]:
    torch.manual_seed(0)
    model = VAE(SHAPE, latent_dim=LATENT, hidden_dims=HIDDEN)
    return model.to(device).eval(), GaussianGuide(model, hidden_dims=HIDDEN).to(device).eval()


@torch.no_grad()
def hand_written(model: VAE, guide: GaussianGuide, x: Tensor, num_particles: int, rows: int) -> Tensor:
    """The bound as one would write it for this network alone."""
    estimates = []
    for datum in x.split(max(1, rows // num_particles)):
        loc, raw = guide.encoder(datum).chunk(2, -1)  # (n, latent)
        scale = softplus(raw + math.log(math.expm1(1 - guide.min_scale))) + guide.min_scale
        flat, log_scale, parts = datum.flatten(1), scale.log().sum(-1), []
        for start in range(0, num_particles, rows):
            noise = torch.randn(min(rows, num_particles - start), *loc.shape, device=x.device)
            z = loc + scale * noise  # (k, n, latent)
            logits = model.decoder.mlp(z)  # (k, n, pixels)
            target = flat.expand_as(logits)
            log_x = -binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
            parts.append(log_x - 0.5 * z.square().sum(-1) + 0.5 * noise.square().sum(-1) + log_scale)
        estimates.append(torch.cat(parts).logsumexp(0) - math.log(num_particles))
    return torch.cat(estimates)


def pythae_nll(x: Tensor, num_particles: int, device: str) -> Any:
    """Pythae's estimator on a network of the same sizes, or None where it is not installed."""
    peer = pythae_vae(SHAPE, (300, 300), LATENT)
    if peer is None:
        return None
    peer = peer.to(device).eval()
    return lambda: peer.get_nll(x, n_samples=num_particles, batch_size=100)


def memory_row(device: str, num_data: int, num_particles: int, budget: int) -> dict[str, Any]:
    """Growth of peak memory while ``log_likelihood`` works under a budget."""
    model, guide = pair(device)
    x = (torch.rand(num_data, *SHAPE, device=device) < 0.3).float()
    log_likelihood(model, guide, x[:2], num_particles=10, compile="full")  # libraries and the compiler are loaded
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    log_likelihood(model, guide, x, num_particles=num_particles, memory_budget=budget)
    elapsed = time.perf_counter() - started
    if device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {
        "case": f"memory, {num_data} images, K={num_particles}",
        "variant": "pyro_vae",
        "median_ms": round(1e3 * elapsed, 1),
        "ratio": round(peak / budget, 4),
        "reference": "memory budget",
        "peak_mib": round(peak / 2**20, 1),
        "budget_mib": round(budget / 2**20, 1),
    }


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of time")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory:
        num_data = 200 if options.quick else 10_000
        common.report([memory_row(options.device, num_data, 5000, 256 * 2**20)], options)
        return
    model, guide = pair(options.device)
    num_data, num_particles, repeats = (8, 5000, 4) if options.quick else (40, 5000, 7)
    x = (torch.rand(num_data, *SHAPE, device=options.device) < 0.3).float()
    work = f"{num_data} images x {num_particles} particles"
    variants: dict[str, Any] = {}
    sizes = (500, 1000, 2500, 5000) if options.device == "cpu" else (5000, 25_000, 100_000)
    for rows in sizes:
        variants[f"hand-written, rows {rows}"] = lambda rows=rows: hand_written(model, guide, x, num_particles, rows)
    variants["pyro_vae"] = lambda: log_likelihood(model, guide, x, num_particles=num_particles)
    peer = pythae_nll(x, num_particles, options.device)
    if peer is not None:
        variants["pythae get_nll"] = peer
    by_hand = [name for name in variants if name.startswith("hand-written")]
    table = common.interleaved(work, variants, None, repeats, options.device, fastest_of=by_hand)
    for row in table:
        row["images_x_particles_per_s"] = round(num_data * num_particles / row["median_ms"] * 1e3)
    common.report(table, options)


if __name__ == "__main__":
    main()
