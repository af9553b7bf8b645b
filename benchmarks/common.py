"""What the benchmark scripts share: arguments, interleaved timing, the table and the JSON object."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch

import pyro_vae


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every script takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="under a minute on two cores")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (torch's default if not given)")
    return parser


def environment(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    cuda = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "device": cuda or _cpu(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "pyro_vae": pyro_vae.__version__,
    }


def _cpu() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def interleaved(
    case: str,
    variants: dict[str, Callable[[], Any]],
    reference: str | None,
    repeats: int,
    device: str,
    fastest_of: list[str] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """Time variants in turn, ``repeats`` rounds; each timed call follows an untimed one of the same variant.

    Without that, a variant pays for what the one before it left behind: memory that was handed back to the system
    and has to be asked for again, caches that hold another's data.

    Args:
        case: name of what is measured.
        variants: what to call; each call is timed whole.
        reference: the variant that ratios refer to (None: the fastest by median).
        fastest_of: among which variants the fastest is looked for (None: all).
        repeats: rounds.
        device: CUDA devices are synchronized around each call.
        clock: in seconds.

    Returns:
        rows ``{case, variant, median_ms, ratio, reference}``; ratio is the median of the rounds' paired ratios.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            run()
            synchronize(device)
            started = clock()
            run()
            synchronize(device)
            times[name].append(1e3 * (clock() - started))
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = reference or min(fastest_of or medians, key=lambda name: medians[name])
    return [
        {
            "case": case,
            "variant": name,
            "median_ms": round(medians[name], 3),
            "ratio": round(statistics.median(a / b for a, b in zip(values, times[base], strict=True)), 4),
            "reference": base,
        }
        for name, values in times.items()
    ]


def synchronize(device: str) -> None:
    """Wait for a CUDA device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def report(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the table, or the JSON object."""
    result = {"environment": environment(options.device), "rows": rows}
    if options.json:
        print(json.dumps(result))
        return
    print(", ".join(f"{k} {v}" for k, v in result["environment"].items()))
    for row in rows:
        extra = "".join(f"  {k} {v}" for k, v in row.items() if k not in _COLUMNS)
        print(f"{row['case']:<34} {row['variant']:<26} {row['median_ms']:>12.3f} ms {row['ratio']:>8.3f}{extra}")


_COLUMNS = ("case", "variant", "median_ms", "ratio", "reference")
