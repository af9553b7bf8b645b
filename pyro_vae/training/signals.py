"""Signals that stop training between two steps: Ctrl-C, and those of schedulers."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupts:
    """Inside this block SIGINT (Ctrl-C), SIGTERM and SIGUSR1 only set :attr:`pressed`.

    A second Ctrl-C interrupts at once; the others, which schedulers send to a process more than once, change nothing
    more. Afterwards the handlers are those that were there before. Signals reach the main thread only: elsewhere
    the block does nothing.

    Attributes:
        pressed: whether one of them has come.
        number: the first that came, 0 if none.
    """

    def __init__(self) -> None:
        self.pressed, self.number = False, 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                old = signal.getsignal(number)
                if old is not None:  # else it is not Python's, and could not be put back
                    self._old[number] = old
                    signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)
        self._old = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.pressed, self.number = True, self.number or number
        if number == signal.SIGINT:
            old = self._old.get(number)
            signal.signal(number, old if callable(old) else signal.default_int_handler)
