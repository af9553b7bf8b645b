"""Vector quantization, forward and backward: ours, one written by hand, and vector-quantize-pytorch.

[32, 1024, 64] vectors, 512 codes, codebook updated by moving averages; as a sequence and as the grid of an image's
features (32, 64, 32, 32). Each case is timed twice: against the hand-written quantizer (chunks of distances,
the fastest of several sizes of them is the reference), and against vector-quantize-pytorch, where that is installed.
``peak_mib`` is the largest sum of tensors alive at a time, beyond the input and the gradient that is handed in;
``memory_ratio`` is to the reference's. *recorded* is the graph that ``fit`` runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import common
import torch
from peers import vector_quantize
from torch import Tensor, nn

from pyro_vae.networks import VectorQuantizer
from pyro_vae.recording import Recording
from pyro_vae.runtime import PeakMemory

BATCH, SIDE, DIM, CODES = 32, 32, 64, 512
DECAY, COMMITMENT = 0.99, 0.25
CHUNKS = (256, 1024, 4096)  # rows
Run = Callable[[], Any]
Quantize = Callable[[Tensor], tuple[Tensor, Tensor]]


class HandWritten(nn.Module):
    """What one would write for this purpose alone: vectors last, distances in chunks."""

    def __init__(self, chunk: int) -> None:
        super().__init__()
        self.chunk = chunk
        start = torch.randn(CODES, DIM)
        for name, value in {"codebook": start, "counts": torch.ones(CODES), "sums": start.clone()}.items():
            self.register_buffer(name, value)

    def forward(self, z_e: Tensor) -> tuple[Tensor, Tensor]:
        rows = z_e.reshape(-1, DIM)
        with torch.no_grad():
            square = self.codebook.square().sum(1)
            parts = [torch.addmm(square, r, self.codebook.t(), alpha=-2).argmin(1) for r in rows.split(self.chunk)]
            codes = torch.cat(parts)
            e = self.codebook[codes].view_as(z_e)
            n = torch.zeros_like(self.counts).index_add_(0, codes, torch.ones_like(rows[:, 0]))
            total = torch.zeros_like(self.sums).index_add_(0, codes, rows)
            self.counts.lerp_(n, 1 - DECAY)
            self.sums.lerp_(total, 1 - DECAY)
            whole = self.counts.sum()
            smoothed = (self.counts + 1e-5) / (whole + CODES * 1e-5) * whole
            self.codebook.copy_(self.sums / smoothed[:, None])
        commitment = COMMITMENT * (z_e - e).square().flatten(1).sum(1)
        return z_e + (e - z_e).detach(), commitment


def channels_last(quantize: Quantize) -> Quantize:
    """A quantizer of sequences for the features of images, as the peer does it for itself."""

    def grid(z_e: Tensor) -> tuple[Tensor, Tensor]:
        z, penalty = quantize(z_e.flatten(2).transpose(1, 2))
        return z.transpose(1, 2).reshape(z_e.shape), penalty

    return grid


def step(quantize: Quantize, z_e: Tensor, gradient: Tensor) -> Run:
    """Forward and backward, with a gradient handed in for the vectors and ones for the penalty."""

    def run() -> None:
        z, penalty = quantize(z_e)
        torch.autograd.backward((z, penalty), (gradient, torch.ones_like(penalty)))
        z_e.grad = None

    return run


def ours(shape: tuple[int, ...]) -> VectorQuantizer:
    return VectorQuantizer(CODES, DIM, grid_dim=len(shape) - 2 if shape[1] == DIM else 0)


class Weighted(nn.Module):
    """The loss whose gradient is the one that is handed in; the input is a parameter, as recordings want it."""

    def __init__(self, quantizer: VectorQuantizer, z_e: Tensor) -> None:
        super().__init__()
        self.quantizer, self.z_e = quantizer, nn.Parameter(z_e.detach())

    def forward(self, gradient: Tensor) -> tuple[Tensor]:
        result = self.quantizer(self.z_e)
        return ((result.z * gradient).sum() + result.penalty.sum(),)


def variants(shape: tuple[int, ...], device: str) -> dict[str, Run]:
    """What is timed, by name."""
    torch.manual_seed(0)
    z_e = torch.randn(shape, device=device, requires_grad=True)
    gradient = torch.randn(shape, device=device)
    is_grid = shape[1] == DIM
    runs: dict[str, Run] = {}
    for chunk in CHUNKS if device == "cpu" else (1024, 32768):
        quantizer: Quantize = HandWritten(chunk).to(device)
        runs[f"hand-written, chunks of {chunk}"] = step(
            channels_last(quantizer) if is_grid else quantizer, z_e, gradient
        )
    module = ours(shape).to(device)
    runs["pyro_vae"] = step(lambda x: module(x)[1:3], z_e, gradient)
    weighted, batch = Weighted(ours(shape), z_e).to(device), {"gradient": gradient}
    recording = Recording(weighted, weighted, batch, True)
    recording.check(batch, 1e-4)
    runs["pyro_vae, recorded"] = lambda: recording(batch)
    peer = vector_quantize(DIM, CODES, DECAY, COMMITMENT, image=is_grid)
    if peer is not None:
        peer = peer.to(device)

        def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
            z, _, penalty = peer(x)
            return z, penalty

        runs["vector-quantize-pytorch"] = step(quantize, z_e, gradient)
    return runs


def peak(run: Run, device: str) -> float:
    """MiB that a run takes beyond what there was before it."""
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with PeakMemory() as memory:
        run()
    return memory.peak / 2**20


def against(case: str, runs: dict[str, Run], reference: str | None, repeats: int, device: str) -> list[dict[str, Any]]:
    """Rows of time and memory."""
    by_hand = [name for name in runs if name.startswith("hand-written")]
    rows = common.interleaved(case, runs, reference, repeats, device, fastest_of=by_hand)
    peaks = {name: peak(run, device) for name, run in runs.items()}
    for row in rows:
        row["peak_mib"] = round(peaks[row["variant"]], 2)
        row["memory_ratio"] = round(peaks[row["variant"]] / peaks[row["reference"]], 4)
    return rows


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    repeats = 7 if options.quick else 25
    rows = []
    for name, shape in {
        "sequence [32, 1024, 64]": (BATCH, SIDE * SIDE, DIM),
        "grid [32, 64, 32, 32]": (BATCH, DIM, SIDE, SIDE),
    }.items():
        runs = variants(shape, options.device)
        peer = runs.pop("vector-quantize-pytorch", None)
        rows += against(name, runs, None, repeats, options.device)
        if peer is None:
            print("vector-quantize-pytorch is not installed, its rows are missing", file=sys.stderr)
            continue
        fastest = rows[-1]["reference"]
        few = {"vector-quantize-pytorch": peer, "hand-written": runs[fastest], "pyro_vae": runs["pyro_vae"]}
        rows += against(f"{name}, peer", few, "vector-quantize-pytorch", repeats, options.device)
    common.report(rows, options)


if __name__ == "__main__":
    main()
