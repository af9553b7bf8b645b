"""``run_sweep``: all runs of a sweep trained and measured, some at once, each in a process of its own."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from pyro_vae.errors import Interrupted, positive
from pyro_vae.files import locked, remove_leftovers
from pyro_vae.sweeps.plan import PLAN, Member, Plan
from pyro_vae.sweeps.process import Process
from pyro_vae.sweeps.search import check_optuna, next_setting
from pyro_vae.sweeps.stages import arrays_of, check_member, epochs_done, is_begun, is_done, is_measured, is_trained
from pyro_vae.training.signals import Interrupts

logger = logging.getLogger(__name__)

PAUSE, LOOK = 0.2, 2.0  # seconds between looks at processes, and at how far they are
LOGS = "logs"


class Worker(Protocol):
    """What :class:`~pyro_vae.sweeps.process.Process` is."""

    def status(self) -> int | None:
        """The exit status; None: at work."""

    def stop(self) -> None:
        """Save and end."""

    def kill(self) -> None:
        """End at once."""

    def error(self) -> str:
        """Why it failed."""


def run_sweep(
    folder: str | Path,
    plan: Plan,
    *,
    epochs: int,
    jobs: int = 1,
    trust: bool = False,
    progress: bool = True,
    start: Callable[[Sequence[Sequence[str]], Path, Path], Worker] = Process,
) -> dict[str, str]:
    """Train and measure what is left of a sweep; finished runs stay as they are, interrupted ones are gone on with.

    Each run is made by ``pyro-vae train`` (or ``resume``) and ``pyro-vae evaluate`` in a process of its own with one
    thread, so that it is the run that these commands make. A run that fails does not stop the others; it is
    tried again when the sweep is resumed.

    Args:
        folder: the sweep's directory.
        plan: what belongs to it; it is written there.
        epochs: of a training, for the estimate of what is left.
        jobs: runs at once.
        trust: run the code of classes outside ``pyro_vae`` that the configuration names.
        progress: show a bar.
        start: starts a process with commands, a run's directory and a log.

    Returns:
        the errors of runs that have failed, by their names.

    Raises:
        InputError: if another sweep is at work there, or a directory holds another run.
        Interrupted: when it was stopped by a signal; all runs are saved then.
    """
    folder = Path(folder)
    positive("jobs", jobs)
    if plan.search:
        check_optuna()
    with locked(folder):
        remove_leftovers([folder / PLAN])
        for run in plan.runs():
            if is_begun(folder / run.name):
                check_member(folder, plan, run)
        plan.write(folder)
        return _Sweep(folder, plan, epochs, jobs, trust, progress, start).work()


class _Sweep:
    """The state of a sweep at work."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        epochs: int,
        jobs: int,
        trust: bool,
        progress: bool,
        start: Callable[[Sequence[Sequence[str]], Path, Path], Worker],
    ) -> None:
        self.folder, self.plan, self.epochs, self.jobs, self.trust = folder, plan, epochs, jobs, trust
        self.progress, self.start = progress, start
        self.at_work: dict[Member, Worker] = {}
        self.failed: dict[str, str] = {}
        self.done = {run.name for run in plan.runs() if is_done(folder / run.name, plan)}
        self.waiting = deque(run for run in plan.runs() if run.name not in self.done)
        self.searched_all = False

    def work(self) -> dict[str, str]:
        """Until all is done."""
        if self.done:
            logger.info("%d runs are done already", len(self.done))
        total = (self.plan.search or len(self.plan.settings)) * len(self.plan.seeds) * self.epochs
        begun = self._epochs()
        often = {"mininterval": 1.0 if sys.stderr.isatty() else 60.0}
        with (
            Interrupts() as signals,
            tqdm(total=total, initial=begun, unit="epoch", smoothing=0, disable=not self.progress, **often) as bar,
        ):
            try:
                looked = 0.0
                while self._fill() or self.at_work:
                    if signals.pressed:
                        self._stop(signals.number)
                    time.sleep(PAUSE)
                    ended = self._look()
                    if ended or time.monotonic() - looked > LOOK:
                        looked = time.monotonic()
                        said = f"{len(self.done)} done, {len(self.at_work)} at work, {len(self.failed)} failed"
                        bar.set_postfix_str(said, refresh=False)
                        bar.update(min(self._epochs(), total) - bar.n)
            finally:
                for worker in self.at_work.values():
                    worker.kill()
        return self.failed

    def _fill(self) -> bool:
        """Start what there is a place for; whether something was started, or is left to be."""
        started = False
        while len(self.at_work) < self.jobs and (self.waiting or self._asked()):
            run = self.waiting.popleft()
            path = self.folder / run.name
            self.at_work[run] = self.start(self._commands(run), path, self.folder / LOGS / f"{run.name}.log")
            started = True
        return started

    def _asked(self) -> bool:
        """Whether a search has gone on by a setting."""
        if not self.plan.search or self.searched_all or len(self.plan.settings) >= self.plan.search:
            return False
        found = next_setting(self.plan, [self._value(i) for i in range(len(self.plan.settings))])
        if found is None:
            logger.warning("the search ends after %d settings: it finds no others", len(self.plan.settings))
            self.searched_all = True
            return False
        self.plan = replace(self.plan, settings=(*self.plan.settings, found))
        self.plan.write(self.folder)
        self.waiting.extend(run for run in self.plan.runs() if run.setting == len(self.plan.settings) - 1)
        return True

    def _value(self, setting: int) -> float | None:
        """A setting's log-likelihood of the validation data, the mean over its seeds; None without all of them."""
        runs = [run for run in self.plan.runs() if run.setting == setting]
        if not all(run.name in self.done for run in runs):
            return None
        value = float(np.mean([arrays_of(self.folder, run, "validation")[1].mean() for run in runs]))
        return value if np.isfinite(value) else None

    def _commands(self, run: Member) -> list[list[str]]:
        path = self.folder / run.name
        trusted = ["--trust"] * self.trust
        commands = []
        if not is_trained(path):
            resume = ["resume", str(path), *trusted]
            commands.append(resume if is_begun(path) else self.plan.train_command(run, path, self.trust))
        how = ["--particles", str(self.plan.particles), "--device", self.plan.device, *trusted]
        for split in self.plan.splits:
            if commands or not is_measured(path, split, self.plan):
                commands.append(["evaluate", str(path), "--split", split, *how])
        return commands

    def _look(self) -> bool:
        """Take note of what has ended."""
        ended = [(run, worker) for run, worker in self.at_work.items() if worker.status() is not None]
        for run, worker in ended:
            del self.at_work[run]
            if worker.status() == 0 and is_done(self.folder / run.name, self.plan):
                self.done.add(run.name)
                logger.info("%s: done", run.name)
            else:
                said = worker.error() if worker.status() else "it ended without being trained and measured"
                self.failed[run.name] = said
                logger.warning("%s failed: %s (%s)", run.name, said, self.folder / LOGS / f"{run.name}.log")
            worker.kill()  # its pipe is closed
        return bool(ended)

    def _stop(self, number: int) -> None:
        """Have all runs save and end."""
        logger.warning("stopping: %d runs save their state", len(self.at_work))
        for worker in self.at_work.values():
            worker.stop()
        while any(worker.status() is None for worker in self.at_work.values()):
            time.sleep(PAUSE)
        raise Interrupted(f"stopped, {len(self.done)} runs done, the others saved", number)

    def _epochs(self) -> int:
        """Epochs that are behind all runs; of one that has ended early, all that it might have had."""
        found = 0
        for run in self.plan.runs():
            over = run.name in self.done or run.name in self.failed
            found += self.epochs if over else min(self.epochs, epochs_done(self.folder / run.name))
        return found
