"""Recipe ``vae`` trained with eager and with compiled steps, five seeds each: do they end in the same place?

Test ELBO and log-likelihood (K = 1000) as mean over seeds +- standard error, and the paired difference. Compiled
kernels round differently, so single runs part ways; their ends should differ by no more than seeds do.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from typing import Any

import common
import torch

from pyro_vae import fit, load_data
from pyro_vae.evaluation import elbo, log_likelihood
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE


def run(seed: int, compile: Any, epochs: int, device: str) -> dict[str, float]:
    """Train as the recipe does, and measure on the test data."""
    data = load_data("mnist5k", binarization="dynamic")
    torch.manual_seed(seed)
    model = VAE(data.train.shape, latent_dim=20, hidden_dims=(200, 200), data_mean=data.train.mean())
    guide = GaussianGuide(model, hidden_dims=(200, 200))
    started = time.perf_counter()
    fit(model, guide, data, epochs=epochs, learning_rate=1e-3, patience=30, seed=seed, compile=compile, device=device,
        progress=False)  # fmt: skip
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "elbo": elbo(model, guide, data, num_particles=20).mean,
        "log_likelihood": log_likelihood(model, guide, data, num_particles=1000).mean,
    }


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    seeds, epochs = (range(2), 10) if options.quick else (range(1, 6), 150)
    results: dict[str, list[dict[str, float]]] = {"off": [], "full": []}
    for seed in seeds:
        for mode, found in results.items():
            found.append(run(seed, mode, epochs, options.device))
            print(seed, mode, found[-1], file=sys.stderr, flush=True)
    results["difference"] = [{k: b[k] - a[k] for k in a} for a, b in zip(results["off"], results["full"], strict=True)]
    rows = []
    eager = statistics.median(r["seconds"] for r in results["off"])
    for mode, found in results.items():
        row: dict[str, Any] = {"case": f"vae, {len(found)} seeds, {epochs} epochs", "variant": mode, "reference": "off"}
        seconds = [r["seconds"] for r in found]
        row |= {"median_ms": round(1e3 * statistics.median(seconds), 1)}
        row |= {"ratio": round(statistics.median(seconds) / eager, 4)}
        for name in ("elbo", "log_likelihood"):
            values = [r[name] for r in found]
            row[name] = round(statistics.mean(values), 3)
            row[f"{name}_standard_error"] = round(statistics.stdev(values) / math.sqrt(len(values)), 3)
        rows.append(row)
    common.report(rows, options)


if __name__ == "__main__":
    main()
