"""The package's exceptions, how it phrases an unknown name, and checks of numbers."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable

logger = logging.getLogger(__name__)


class InputError(ValueError):
    """What the user gave cannot be used; the message says what was wrong, where, and what would be right."""


class UsageError(InputError):
    """A command line that is not understood; the message says which option, and the nearest known one."""


class CorruptFileError(InputError):
    """A file exists but cannot be read as what it should be (truncated, damaged, wrong format)."""


class NotApplicable(InputError):
    """A figure or metric has nothing to show or measure of these programs or data; the message says why."""


class ReadError(InputError):
    """Data could not be read in the middle of work; the message names the datum. What was reached is saved."""


class NonFiniteLossError(RuntimeError):
    """A training loss became NaN or infinite; the message names the step and the site."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal (Ctrl-C, SIGTERM, SIGUSR1) and saved; the message names step and signal.

    Args:
        message: of what was reached.
        number: of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


INTERRUPTED = 130  # exit status after Ctrl-C


def exit_status(error: KeyboardInterrupt) -> int:
    """The exit status of a process that a signal has stopped: 128 and the signal's number, 130 after Ctrl-C."""
    return 128 + error.number if isinstance(error, Interrupted) else INTERRUPTED


def printable(text: str) -> str:
    """A text that a terminal shows and does not obey: control and invisible characters are written out, ``\\x1b``."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException) -> str:
    """The first line of what an error says; empty, if it says nothing."""
    return (str(error).strip().splitlines() or [""])[0]


def why_not(error: Exception) -> str:
    """What an error says in one line, with its type where it is not the package's own; its traceback is logged."""
    if isinstance(error, InputError):
        return str(error)
    logger.debug("where it failed", exc_info=error)
    line = first_line(error)
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def unknown(kind: str, name: str, choices: Iterable[str]) -> InputError:
    """Build the error for an unknown name, with the nearest known ones.

    Args:
        kind: what the name should have been, e.g. ``"dataset"``.
        name: what was given.
        choices: the known names.

    Returns:
        An :class:`InputError` to raise.
    """
    known = sorted(choices)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return InputError(f"unknown {kind} '{name}'.{hint} Known: {', '.join(known)}.")


def positive(name: str, value: int) -> int:
    """The value, if it is a positive integer.

    Raises:
        InputError: otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a positive integer, got {value!r}")
    return value


def below_one(name: str, value: float) -> float:
    """The value, if it is a number from 0 to below 1.

    Raises:
        InputError: otherwise.
    """
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise InputError(f"{name} must be a number from 0 to below 1, got {value!r}")
    return value


def not_negative(name: str, value: float) -> float:
    """The value, if it is a number from 0.

    Raises:
        InputError: otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InputError(f"{name} must be a number from 0, got {value!r}")
    return value


def above_zero(name: str, value: float) -> float:
    """The value, if it is a finite number above 0.

    Raises:
        InputError: otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InputError(f"{name} must be a number above 0, got {value!r}")
    return value
