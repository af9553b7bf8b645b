"""Kill a training run with SIGKILL at random moments, resume it each time, and compare with an undisturbed one.

``pyro-vae train vae`` (small) runs once undisturbed. Then it is started again and killed at random moments, from the
last part of the program's start to well into training, and resumed after each kill; after each one the directory must
be readable: it has no configuration yet, or ``pyro_vae.load`` gives model and guide. In the end the weights and
the log must be those of the undisturbed run, bit for bit.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import torch

import pyro_vae

EXPERIMENT = (
    "--data.limit 500 --fit.batch_size 50 --model.hidden_dims [50] --guide.hidden_dims [50] --fit.patience 1000 "
    "--fit.ema_decay 0.99"
)


def command(action: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "pyro_vae", action, *map(str, arguments)]


def start(arguments: list[str], threads: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args} ended with {process.returncode}:\n{errors.decode()}")


def readable(run: Path) -> bool:
    """Whether the directory can be used, or nothing has been promised yet."""
    if not (run / "config.yaml").exists():
        return True
    try:
        pyro_vae.load(run)
        return True
    except Exception as error:
        print(f"not readable: {error!r}", file=sys.stderr)
        return False


def log(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def experiment(folder: Path, kills: int, epochs: int, device: str, threads: int, seed: int) -> dict[str, Any]:
    """The undisturbed run, the killed one, and how they compare."""
    options = [*EXPERIMENT.split(), "--fit.epochs", str(epochs), "--fit.checkpoint_every", "0.05"]
    options += ["--fit.device", device]
    whole, killed = folder / "whole", folder / "killed"
    started = time.monotonic()
    process = start(command("train", "vae", *options, "--out", whole), threads)
    startup = wait_for_training(process, whole, math.inf) - started
    finish(process)
    seconds = json.loads((whole / "summary.json").read_text())["seconds"]

    draw = random.Random(seed)
    done, readable_after, before_config, left = 0, 0, 0, []
    while done < kills:
        exists = (killed / "config.yaml").exists()
        arguments = command("resume", killed) if exists else command("train", "vae", *options, "--out", killed)
        goal = len(log_lines(killed)) + draw.uniform(0, 1.2 * epochs / kills)
        early = draw.random() < 0.25  # a quarter of the kills fall into the program's start
        process = start(arguments, threads)
        until = time.monotonic() + (draw.uniform(0.5, 1.0) * startup if early else math.inf)
        if wait_for_training(process, killed, until) < until:
            while len(log_lines(killed)) < goal and process.poll() is None:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 2 * seconds / epochs))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        if process.returncode != -signal.SIGKILL:
            if process.returncode != 0:
                raise SystemExit(f"{arguments} ended with {process.returncode}:\n{errors.decode()}")
            break  # finished before the moment came
        done += 1
        before_config += not (killed / "config.yaml").exists()
        readable_after += readable(killed)
        left.append(len(log_lines(killed)))
    finish(start(command("resume", killed), threads))
    weights = [(run / "model.safetensors").read_bytes() for run in (whole, killed)]
    return {
        "case": f"{kills} SIGKILLs, {epochs} epochs",
        "variant": "train, resume",
        "median_ms": round(1e3 * seconds, 1),
        "ratio": 1.0,
        "reference": "undisturbed run",
        "kills": done,
        "before_the_first_file": before_config,
        "readable": readable_after,
        "epochs_done_at_kills": left,
        "identical_weights": weights[0] == weights[1],
        "identical_log": log(whole) == log(killed),
    }


def wait_for_training(process: subprocess.Popen[bytes], run: Path, until: float) -> float:
    """Wait until the process has written its log anew, or a time has come, or it has ended; returns the time."""
    file = run / "metrics.jsonl"
    before = file.stat().st_mtime_ns if file.exists() else None
    while time.monotonic() < until and process.poll() is None:
        if file.exists() and file.stat().st_mtime_ns != before:
            break
        time.sleep(0.002)
    return time.monotonic()


def log_lines(run: Path) -> list[str]:
    file = run / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--kills", type=int, default=None, help="20 (with --quick 4)")
    parser.add_argument("--epochs", type=int, default=None, help="400 (with --quick 80)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    kills = options.kills or (4 if options.quick else 20)
    epochs = options.epochs or (80 if options.quick else 400)
    threads = options.threads or 1
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        row = experiment(Path(folder), kills, epochs, options.device, threads, options.seed)
    common.report([row], options)


if __name__ == "__main__":
    main()
