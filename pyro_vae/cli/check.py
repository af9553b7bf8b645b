"""``pyro-vae check``: what a machine's checks have found, as lines and a small table of times."""

from __future__ import annotations

import json
import logging
import platform
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from pyro_vae.cli.parsing import make_parser, parse
from pyro_vae.errors import InputError, positive
from pyro_vae.runs.measurements import device_name, plain
from pyro_vae.runtime import as_device


def check(arguments: Sequence[str]) -> None:
    """Check this machine: every way of training agrees, resumes exactly, and what a step takes.

    Five small pairs are trained, eagerly and as recorded, compiled and captured steps, under mixed precision, and with
    a break; a log-likelihood is compared with its exact value. Each line is ok, differs, or not available, with the
    reason. Exit status 1 if anything differs. Half a minute to three on a CPU core.
    """
    parser = make_parser("check", check.__doc__)
    parser.add_argument("--device", type=str, default="auto", help="auto (a GPU if there is one), cpu, cuda, …")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU: small steps gain nothing by more")
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")
    options = parse(parser, arguments)
    device, started = as_device(options.device), time.monotonic()
    before = torch.get_num_threads()
    torch.set_num_threads(positive("threads", options.threads))
    try:
        _check(device, options.json, started)
    finally:
        torch.set_num_threads(before)


def _check(device: torch.device, as_json: bool, started: float) -> None:
    """Run all checks, print what they find, and raise if anything differs."""
    from pyro_vae.cli.machine import CHECKS, Line, guarded
    from pyro_vae.cli.small_pairs import SIZES, Case, collected, step_times

    machine = described(device)
    if not as_json:
        print("\n".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    lines: list[Line] = []
    times: dict[str, dict[str, float]] = {}
    cases = {name: Case(name, device) for name in SIZES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about devices and compilers: what matters is a line
        for one in CHECKS:
            logging.info("%s …", (one.__doc__ or "").splitlines()[0].rstrip("."))
            with collected("pyro_vae"), collected("lightning_fabric"), collected("lightning_utilities"):
                for line in guarded(one, cases, device):
                    lines.append(line)
                    if not as_json:
                        print(f"{line.state:<13}  {line.check:<15}  {line.of:<21}  {line.said}", flush=True)
        logging.info("Times of training steps …")
        with collected("pyro_vae"), collected("lightning_utilities"):
            times = {name: step_times(case) for name, case in cases.items()}
    differing = [f"{line.check} of {line.of}" for line in lines if line.state == "differs"]
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        found = {"machine": machine, "lines": [asdict(line) for line in lines], "step_ms": times}
        print(json.dumps(plain({**found, "differs": differing, "seconds": seconds}), allow_nan=False))
    else:
        print("\n".join([*_table(times), f"{len(lines)} checks in {seconds:.0f} s"]), flush=True)
    if differing:
        raise InputError(f"{len(differing)} of {len(lines)} checks differ: {', '.join(differing)}")


def described(device: torch.device) -> dict[str, Any]:
    """Versions and the machine, for people."""
    from pyro_vae import __version__

    packages = {name: version(name) for name in ("torch", "pyro-ppl", "lightning-fabric", "numpy")}
    found: dict[str, Any] = {"pyro_vae": __version__, "python": platform.python_version(), **packages}
    found["device"] = device_name(device)
    if device.type == "cuda":
        found["cuda"] = torch.version.cuda
        found["memory"] = f"{torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"
    return {**found, "threads": torch.get_num_threads()}


def _table(times: dict[str, dict[str, float]]) -> list[str]:
    """Milliseconds of a step, a line for each pair."""
    names = list(next(iter(times.values())))
    lines = [f"{'ms of a step, batch 64':<23}" + "".join(f"{name:>11}" for name in names)]
    return lines + [f"  {pair:<21}" + "".join(f"{each[name]:>11.2f}" for name in names) for pair, each in times.items()]
