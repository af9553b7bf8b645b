"""Peak resident memory of measuring and training under a budget, each in a process of its own.

The baseline is what the process has resident after the data were made and the work was done once on two of them
(libraries are loaded then); what is told is how far the peak rises above it. Linux only. For training: how much memory,
and how many open files, there are in the last tenth of the time more than in the second. ``--quick`` takes a tenth
of the data and the steps.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import common
import torch
from torch import Tensor

from pyro_vae.data import Data, Split
from pyro_vae.evaluation import ais, bidirectional, code_statistics, elbo, latent_statistics, log_likelihood
from pyro_vae.guides import GaussianGuide, VQGuide
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE, VQVAE
from pyro_vae.training import fit

MIB = 2**20
CHAINS = {"num_chains": 4, "num_temperatures": 4, "num_leapfrog": 1, "compile": "graph"}


def images(count: int, *shape: int) -> Tensor:
    """Grey levels, made in place: 10,000 of 3x128x128 are 470 MiB."""
    return torch.empty((count, *shape), dtype=torch.uint8).random_(0, 256, generator=torch.Generator().manual_seed(0))


def digits(count: int) -> tuple[Any, Any, Split]:
    model = VAE((1, 28, 28), latent_dim=20, hidden_dims=[200, 200], likelihood=Gaussian())
    return model, GaussianGuide(model, hidden_dims=[200, 200]), Split({"x": images(count, 1, 28, 28)})


def photographs(count: int) -> tuple[Any, Any, Split]:
    model = VAE((3, 128, 128), latent_dim=8, decoder="conv", hidden_dims=[16, 32], likelihood=Gaussian())
    return model, GaussianGuide(model, encoder="conv", hidden_dims=[16, 32]), Split({"x": images(count, 3, 128, 128)})


def coded(count: int) -> tuple[Any, Any, Split]:
    sizes = {"num_codes": 32, "code_dim": 4, "channels": 8, "block_channels": 4}
    model = VQVAE((3, 128, 128), likelihood=Gaussian(), **sizes)
    return model, VQGuide(model), Split({"x": images(count, 3, 128, 128)})


def rows(count: int) -> tuple[Any, Any, Split]:
    model = VAE((32,), latent_dim=4, hidden_dims=[32], likelihood=Gaussian())
    x = torch.rand(count, 32, generator=torch.Generator().manual_seed(0))
    return model, GaussianGuide(model, hidden_dims=[32]), Split({"x": x})


Case = tuple[str, Callable[[int], tuple[Any, Any, Split]], int, int, Callable[..., Any]]
CASES: list[Case] = [  # what, of which data, how many, budget in MiB, how
    ("log_likelihood, K = 100", digits, 10_000, 64, partial(log_likelihood, num_particles=100, compile="graph")),
    ("elbo, K = 10", digits, 10_000, 64, elbo),
    ("latent_statistics, K = 10", digits, 10_000, 64, latent_statistics),
    ("ais, 4 chains", digits, 10_000, 64, partial(ais, **CHAINS)),
    ("bidirectional, 4 chains", digits, 1000, 64, lambda m, g, s, **b: bidirectional(m, g, len(s), **CHAINS, **b)),
    ("log_likelihood, K = 10", photographs, 1000, 64, partial(log_likelihood, num_particles=10, compile="graph")),
    ("elbo, K = 1", photographs, 10_000, 64, partial(elbo, num_particles=1)),
    ("elbo, K = 10", photographs, 1000, 64, elbo),
    ("elbo, K = 10", photographs, 1000, 512, elbo),
    ("latent_statistics, K = 10", photographs, 1000, 64, latent_statistics),
    ("ais, 4 chains", photographs, 100, 64, partial(ais, **CHAINS)),
    ("code_statistics", coded, 10_000, 64, code_statistics),
    ("log_likelihood", coded, 1000, 64, log_likelihood),
    ("log_likelihood, K = 10", rows, 200_000, 64, partial(log_likelihood, num_particles=10, compile="graph")),
    ("elbo, K = 10", rows, 200_000, 64, elbo),
    ("latent_statistics, K = 10", rows, 200_000, 64, latent_statistics),
]
STEPS = 4000


def resident(largest: bool = False) -> int:
    """The process's resident memory, bytes: now, or the largest since :func:`forget`."""
    name = "VmHWM:" if largest else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def forget() -> None:
    """Give freed memory back, and let the largest be that of now: what came before does not hide what comes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def measured(number: int, quick: bool) -> dict[str, Any]:
    """One case, in this process."""
    what, make, count, budget, run = CASES[number]
    model, guide, split = make(max(20, count // 10) if quick else count)
    run(model, guide, split.subset(2), memory_budget=budget * MIB)
    forget()
    before, started = resident(), time.perf_counter()
    run(model, guide, split, memory_budget=budget * MIB)
    elapsed, grown = time.perf_counter() - started, resident(largest=True) - before
    shape = "x".join(map(str, split.shape))
    return row(what, f"{len(split):,} of {shape}", elapsed, grown / MIB, budget)


def trained(quick: bool) -> dict[str, Any]:
    """Resident memory and open files of one training, looked at all the time: its last tenth against its second."""
    steps = STEPS // 10 if quick else STEPS
    model, guide, split = rows(1000)
    data, found, ended = Data(split, validation=split.subset(100)), [], threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            found.append((resident(), len(os.listdir("/proc/self/fd"))))

    started, watcher = time.perf_counter(), threading.Thread(target=look)
    watcher.start()
    fit(model, guide, data, epochs=steps // 10, progress=False, device="cpu")  # of 10 steps each
    ended.set()
    watcher.join()
    elapsed, tenth = time.perf_counter() - started, len(found) // 10
    (early, files), (late, more) = (
        (max(s) for s in zip(*part, strict=True)) for part in (found[tenth : 2 * tenth], found[-tenth:])
    )
    told = row(f"fit, {steps} steps", "1,000 of 32", elapsed, (late - early) / MIB, None)
    return told | {"files_more": more - files}


def row(case: str, data: str, seconds: float, grown_mib: float, budget: int | None) -> dict[str, Any]:
    """A line of the table; the ratio is of the growth to the budget."""
    told = {"case": case, "variant": data, "median_ms": round(1e3 * seconds, 1)}
    told |= {"ratio": round(grown_mib / budget, 3) if budget else 0.0, "reference": "memory budget"}
    return told | {"grown_mib": round(grown_mib, 1), "budget_mib": budget}


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--one", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="cases whose data are made by this function: digits, rows, …")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    if options.one is not None:
        print(json.dumps(measured(options.one, options.quick) if options.one >= 0 else trained(options.quick)))
        return
    numbers = [i for i, case in enumerate(CASES) if options.only in case[1].__name__]
    table = []
    for number in [*numbers, *([] if options.only else [-1])]:
        words = [sys.executable, __file__, "--one", str(number), *(["--quick"] if options.quick else [])]
        words += ["--threads", str(options.threads)] if options.threads else []
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{CASES[number][:2]}: {done.stderr[-2000:]}")
        table.append(json.loads(done.stdout.splitlines()[-1]))
        print(table[-1], file=sys.stderr)
    common.report(table, options)


if __name__ == "__main__":
    main()
