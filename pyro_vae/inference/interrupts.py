"""Ctrl-C that waits for the current step."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class Interrupts:
    """Inside this block the first Ctrl-C only sets :attr:`pressed`; a second one interrupts at once.

    Signals reach the main thread only: elsewhere the block does nothing.

    Attributes:
        pressed: whether Ctrl-C has been pressed.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._old: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._old = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, self._old if callable(self._old) else signal.default_int_handler)
