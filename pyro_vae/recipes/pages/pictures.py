"""Figures as bytes, and why those that are not there are not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from pyro_vae.errors import InputError
from pyro_vae.evaluation.figures import png, why_not

logger = logging.getLogger(__name__)
DPI = 100
FIGURES = "pyro_vae.evaluation.figures"  # the logger of the figures: why one does not apply


@dataclass
class Pictures:
    """Figures that were drawn, and the others.

    Attributes:
        drawn: PNG by name.
        reasons: by name, why a figure does not apply, or what it failed of.
        failed: those that failed of something else than what they say themselves.
    """

    drawn: dict[str, bytes] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def draw(self, drawers: Mapping[str, Callable[[], Figure | None]], names: Sequence[str]) -> None:
        """Draw some of the figures; those that do not apply say why."""
        for name in names:
            if name not in drawers:
                continue
            failure, image = None, None
            with _said() as messages:
                try:
                    figure = drawers[name]()
                    image = None if figure is None else png(figure, DPI)
                except Exception as error:  # one figure's failure is not to take the page with it
                    failure = error
            if failure is not None:
                self.reasons[name] = why_not(failure)
                if not isinstance(failure, InputError):
                    self.failed.append(name)
                    logger.warning("no figure '%s': %s", name, self.reasons[name])
            elif image is not None:
                self.drawn[name] = image
            else:
                told = messages[-1] if messages else "it does not apply"
                self.reasons[name] = told.partition(": ")[2] if told.startswith("no figure") else told


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
