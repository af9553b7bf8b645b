"""Values that change with training time: learning rates, KL weights. Time is counted in epochs."""

from __future__ import annotations

import bisect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from pyro_vae.errors import InputError


class Schedule(ABC):
    """A value as a function of the epoch (a real number; 0.5 is the middle of the first epoch).

    Attributes:
        end: the epoch from which on the value is constant.
    """

    end: float = 0.0

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """The value at a time, in epochs since the start of training."""


class Constant(Schedule):
    """The same value throughout."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, epoch: float) -> float:
        """The value."""
        return self.value


class _Ramp(Schedule):
    def __init__(self, start: float, stop: float, epochs: float) -> None:
        if epochs <= 0:
            raise InputError(f"a schedule's epochs must be positive, got {epochs}")
        self.start, self.stop, self.end = start, stop, float(epochs)

    def _at(self, part: float) -> float:
        return self.start + (self.stop - self.start) * part

    def _part(self, epoch: float) -> float:
        return min(max(epoch / self.end, 0.0), 1.0)


class Linear(_Ramp):
    """From ``start`` to ``stop`` in a straight line over ``epochs``, then ``stop`` (KL warm-up: 0 to 1)."""

    def __call__(self, epoch: float) -> float:
        """The value at a time in epochs."""
        return self._at(self._part(epoch))


class Cosine(_Ramp):
    """From ``start`` to ``stop`` along half a cosine over ``epochs``, then ``stop``."""

    def __call__(self, epoch: float) -> float:
        """The value at a time in epochs."""
        return self._at(0.5 - 0.5 * math.cos(math.pi * self._part(epoch)))


class Stages(Schedule):
    """``values[i]`` for ``epochs[i]`` epochs each, then the last value (IWAE's learning rate: 8 stages).

    Source: Burda et al. 2016, arXiv:1509.00519, section 5.
    """

    def __init__(self, values: Sequence[float], epochs: Sequence[float]) -> None:
        if len(values) != len(epochs) or not values or min(epochs) <= 0:
            raise InputError(
                f"Stages needs as many positive epochs as values, got {len(values)} values and epochs {list(epochs)}"
            )
        self.values, self.epochs = list(values), list(epochs)
        self.borders = list(itertools.accumulate(epochs))
        self.end = float(sum(epochs[:-1]))

    def __call__(self, epoch: float) -> float:
        """The value at a time in epochs."""
        return self.values[min(bisect.bisect_right(self.borders, epoch), len(self.values) - 1)]


def as_schedule(value: float | Schedule) -> Schedule:
    """A schedule as it is; a number as a constant one."""
    return value if isinstance(value, Schedule) else Constant(float(value))
