"""The process of a sweep's run: ``python -m pyro_vae.cli.worker``, told on standard input what to do."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from pyro_vae.cli import main
from pyro_vae.errors import InputError

WAIT = 120.0  # seconds for another training in the directory, which may be saving its state


def work() -> int:
    """Run the commands of a line of JSON, ``{"commands": [[…], …], "run": DIR}``; ends by SIGTERM when input ends."""
    text = b""
    while not text.endswith(b"\n"):
        read = os.read(0, 1 << 16)
        if not read:
            return 1
        text += read
    job = json.loads(text)
    threading.Thread(target=_end_with_input, daemon=True).start()
    _wait_until_free(Path(job["run"]))
    for command in job["commands"]:
        print(f"$ pyro-vae {' '.join(command)}", flush=True)
        status = main(command)
        if status:
            return status
    return 0


def _end_with_input() -> None:
    while os.read(0, 1 << 16):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_until_free(run: Path) -> None:
    """Wait until nobody trains in a directory: a sweep that was killed leaves runs that are saving."""
    from pyro_vae.files import locked

    end = time.monotonic() + WAIT
    while run.is_dir() and time.monotonic() < end:
        try:
            with locked(run):
                return
        except InputError:
            time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(work())
