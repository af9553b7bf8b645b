"""A run's commands in a process of its own, with one thread, which ends with the process that started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

WORKER = "pyro_vae.cli.worker"
SURROUNDINGS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "TQDM_MININTERVAL": "60",  # seconds between the lines of a bar in the log
    "PYTHONUNBUFFERED": "1",
}
TOLD = 300  # characters of an error


class Process:
    """Commands of ``pyro-vae``, one after another, in a process of its own; what they say goes into a file.

    The process reads from a pipe that this one holds open. When the pipe is closed, by :meth:`stop` or by the end of
    this process, however it ends, the other one stops as by SIGTERM: a training saves its state first.

    Args:
        commands: arguments of ``pyro-vae``; the first that fails is the last.
        run: the directory that they work in; they wait until nobody else trains in it.
        log: the file, which is added to.
    """

    def __init__(self, commands: Sequence[Sequence[str]], run: Path, log: Path) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._begin = log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", WORKER],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **SURROUNDINGS},
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which tells the others
            )
        self._tell((json.dumps({"commands": [list(c) for c in commands], "run": str(run)}) + "\n").encode())

    def _tell(self, text: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text)
            self._process.stdin.flush()
        except BrokenPipeError:  # it has ended already, and its status says how
            pass

    def status(self) -> int | None:
        """Its exit status, minus the signal's number if one ended it; None: it is at work."""
        return self._process.poll()

    def stop(self) -> None:
        """Have it save and end; returns at once."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass

    def kill(self) -> None:
        """End it at once, and wait until it has."""
        self.stop()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def error(self) -> str:
        """Why it failed, in a line: what it said last, or the signal that ended it."""
        status = self._process.poll()
        if status is not None and status < 0:
            name = signal.Signals(-status).name if -status in [*signal.Signals] else f"signal {-status}"
            return f"ended by {name}" + (" (was memory spent?)" if name == "SIGKILL" else "")
        with self.log.open("rb") as file:
            file.seek(self._begin)
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("error: ")] or lines or [f"error: exit status {status}"]
        return said[-1].removeprefix("error: ")[:TOLD]
