"""Training on a file larger than a memory limit, against the same data in memory: throughput, and peak memory.

A ``.npy`` file of 4 GB (grey 28x28 images) is made on the spot. Throughput: the same 40,000 of its rows, at random
places, once in memory and once read from the mapped file, in turn. Memory: all of the file, mapped, is checked and
trained on for one epoch; what is told is how far the peak rises above what is resident before. Linux only. ``--quick``
takes a file and numbers of a tenth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from memory import MIB, forget, resident

from pyro_vae.data import Split
from pyro_vae.data.rows import Mapped, Part
from pyro_vae.guides import GaussianGuide
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE
from pyro_vae.training import fit

ROWS, TIMED, ROUNDS = 5_500_000, 40_000, 3
SIZES = {"mlp": [200, 200], "conv": [32, 64]}
LIMIT_MIB = 400


def pair(kind: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    sizes = {"hidden_dims": SIZES[kind]}
    model = VAE((1, 28, 28), latent_dim=20, decoder=kind, likelihood=Gaussian(), **sizes)
    return model, GaussianGuide(model, encoder=kind, **sizes)


def write(path: Path, rows: int) -> None:
    generator = np.random.default_rng(0)
    some = generator.integers(0, 256, (10_000, 1, 28, 28), dtype=np.uint8)
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, 1, 28, 28))
    for start in range(0, rows, len(some)):
        array[start : start + len(some)] = some[: rows - start]
    array.flush()


def mapped(path: Path) -> Mapped:
    return Mapped({"x": np.load(path, mmap_mode="r")})


def seconds(kind: str, split: Split, epochs: int) -> float:
    options = {"batch_size": 100, "device": "cpu", "progress": False, "compile": "graph"}
    return fit(*pair(kind), split, epochs=epochs, **options).seconds


def compared(kind: str, path: Path, timed: int) -> list[dict[str, Any]]:
    rows = mapped(path)
    places = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))[:timed]
    splits = {"in memory": Split(rows.read(places)), "mapped": Split(Part(rows, places))}
    found: dict[str, list[float]] = {name: [] for name in splits}
    epochs = 3 if kind == "mlp" else 1
    for round_ in range(ROUNDS + 1):
        for name, split in splits.items():
            taken = seconds(kind, split, epochs)
            if round_:
                found[name].append(taken)
    least = {name: min(times) for name, times in found.items()}
    return [
        {"case": f"fit, {kind}", "variant": name, "median_ms": round(1e3 * least[name], 1)}
        | {"ratio": round(least["in memory"] / least[name], 3), "reference": "throughput in memory"}
        for name in splits
    ]


def whole(path: Path) -> dict[str, Any]:
    """All of the file, in this process."""
    rows = mapped(path)
    seconds("mlp", Split(Part(rows, torch.arange(1000))), 1)
    forget()
    before, started = resident(), time.perf_counter()
    seconds("mlp", Split(rows), 1)
    grown, size = (resident(largest=True) - before) / MIB, path.stat().st_size / MIB
    told = {"case": "fit, mlp, the whole file", "variant": f"{len(rows):,} rows, {size:,.0f} MiB"}
    told |= {"median_ms": round(1e3 * (time.perf_counter() - started), 1), "ratio": round(grown / LIMIT_MIB, 3)}
    return told | {"reference": f"limit of {LIMIT_MIB} MiB", "grown_mib": round(grown, 1)}


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--one", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    if options.one is not None:
        print(json.dumps(whole(options.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        write(path, ROWS // 10 if options.quick else ROWS)
        words = [sys.executable, __file__, "--one", str(path)]
        words += ["--threads", str(options.threads)] if options.threads else []
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        table = [json.loads(done.stdout.splitlines()[-1])]
        for kind in SIZES:
            table += compared(kind, path, TIMED // 10 if options.quick else TIMED)
    common.report(table, options)


if __name__ == "__main__":
    main()
