"""Figures as bytes, and why those that are not there are not."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from pyro_vae.errors import InputError

DPI = 100
FIGURES = "pyro_vae.evaluation.figures"  # the logger of the figures: why one does not apply


@dataclass
class Pictures:
    """Figures that were drawn, and the others.

    Attributes:
        drawn: PNG by name.
        reasons: by name, why a figure does not apply.
    """

    drawn: dict[str, bytes] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def draw(self, drawers: Mapping[str, Callable[[], Figure | None]], names: Sequence[str]) -> None:
        """Draw some of the figures; those that do not apply say why."""
        for name in names:
            if name not in drawers:
                continue
            with _said() as messages:
                try:
                    figure = drawers[name]()
                except InputError as error:
                    figure, messages = None, [str(error)]
            if figure is not None:
                self.drawn[name] = png(figure)
            else:
                told = messages[-1] if messages else "it does not apply"
                self.reasons[name] = told.partition(": ")[2] if told.startswith("no figure") else told


def png(figure: Figure) -> bytes:
    """A figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


@contextmanager
def _said() -> Iterator[list[str]]:
    """What the figures say in the log inside this block, which is then said in the page instead."""
    messages: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(FIGURES)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
