"""Values that change with training time: learning rates, KL weights, buffers. Time is counted in epochs."""

from __future__ import annotations

import bisect
import itertools
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError, positive, unknown
from pyro_vae.programs.program import Program

logger = logging.getLogger(__name__)


class Schedule(ABC):
    """A value as a function of the epoch (a real number; 0.5 is the middle of the first epoch).

    Attributes:
        end: the epoch from which on the value is constant.

    Example:
        >>> from pyro_vae.training import Schedule
        >>> class Step(Schedule):
        ...     end = 10.0
        ...     def __call__(self, epoch):
        ...         return 0.0 if epoch < self.end else 1.0
        >>> Step()(9.9), Step()(10.0)
        (0.0, 1.0)
    """

    end: float = 0.0

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """The value at a time, in epochs since the start of training."""

    def largest(self) -> float:
        """Its largest value at the beginning of an epoch (of the first 10,000)."""
        return max(*map(self, range(int(min(self.end, 10_000.0)) + 1)), self(min(self.end, 10_000.0)))


class Constant(Schedule):
    """The same value throughout.

    Example:
        >>> from pyro_vae.training import Constant
        >>> Constant(0.5)(epoch=3)
        0.5
    """

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
    """From ``start`` to ``stop`` in a straight line over ``epochs``, then ``stop`` (KL warm-up: 0 to 1).

    Example:
        >>> from pyro_vae.training import Linear
        >>> warm_up = Linear(0.0, 1.0, epochs=10)
        >>> warm_up(0), warm_up(5), warm_up(20)
        (0.0, 0.5, 1.0)
    """

    def __call__(self, epoch: float) -> float:
        """The value at a time in epochs."""
        return self._at(self._part(epoch))


class Cosine(_Ramp):
    """From ``start`` to ``stop`` along half a cosine over ``epochs``, then ``stop``.

    Example:
        >>> from pyro_vae.training import Cosine
        >>> decay = Cosine(1.0, 0.0, epochs=10)
        >>> decay(0), round(decay(5), 3), decay(20)
        (1.0, 0.5, 0.0)
    """

    def __call__(self, epoch: float) -> float:
        """The value at a time in epochs."""
        return self._at(0.5 - 0.5 * math.cos(math.pi * self._part(epoch)))


class Sigmoid(_Ramp):
    r"""From ``start`` to ``stop`` along a logistic curve over ``epochs``, then ``stop`` (KL warm-up: 0 to 1).

    .. math:: start + (stop - start)\, \frac{\sigma(s (2t - 1)) - \sigma(-s)}{\sigma(s) - \sigma(-s)}, \quad
        t = epoch / epochs

    so that both ends are reached exactly, and the middle is in the middle.

    Args:
        start, stop: values at the ends.
        epochs: from the one to the other.
        steepness: s, positive: small, almost a straight line; large, almost a step.

    Raises:
        InputError: if epochs or steepness are not positive.

    Source: Bowman et al. 2016, arXiv:1511.06349, figure 2 (the weight of the KL of sentences).

    Example:
        >>> from pyro_vae.training import Sigmoid
        >>> warm_up = Sigmoid(0.0, 1.0, epochs=10)
        >>> warm_up(0), round(warm_up(3), 3), warm_up(5), warm_up(20)
        (0.0, 0.081, 0.5, 1.0)
    """

    def __init__(self, start: float, stop: float, epochs: float, steepness: float = 6.0) -> None:
        super().__init__(start, stop, epochs)
        if not steepness > 0:
            raise InputError(f"Sigmoid: steepness must be positive, got {steepness}")
        self.steepness = float(steepness)

    def __call__(self, epoch: float) -> float:
        """The value at a time in epochs."""
        half = self.steepness / 2  # the logistic function is 1/2 + tanh(. / 2) / 2
        return self._at(0.5 + 0.5 * math.tanh(half * (2 * self._part(epoch) - 1)) / math.tanh(half))


class Cyclical(_Ramp):
    """A ramp from ``start`` to ``stop`` again and again, each held at ``stop`` for a while; then ``stop``.

    With a KL weight of 0 the latents are filled anew at the beginning of each cycle, from a decoder that has learned to
    use them in the one before.

    Args:
        start, stop: values at the ends of a ramp, which is a straight line.
        epochs: of all cycles together; each has the same number.
        cycles: how many (M of the paper).
        ramp: part of a cycle that the ramp takes, in (0, 1] (R of the paper).

    Raises:
        InputError: if epochs or cycles are not positive, or ramp is not in (0, 1].

    Source: Fu et al. 2019, arXiv:1903.10145, equations 6 and 7.

    Example:
        >>> from pyro_vae.training import Cyclical
        >>> weight = Cyclical(0.0, 1.0, epochs=20, cycles=2, ramp=0.5)  # 0 to 1 in epochs 0 to 5, and 10 to 15
        >>> [weight(epoch) for epoch in (0, 2.5, 5, 9.9, 10, 12.5, 15, 30)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, start: float, stop: float, epochs: float, cycles: int = 4, ramp: float = 0.5) -> None:
        super().__init__(start, stop, epochs)
        self.cycles = positive("cycles", cycles)
        if not 0.0 < ramp <= 1.0:
            raise InputError(f"Cyclical: ramp is a part of a cycle, above 0 and at most 1, got {ramp}")
        self.ramp = float(ramp)
        self._period = float(epochs) / self.cycles
        self.end = (self.cycles - 1 + self.ramp) * self._period

    def __call__(self, epoch: float) -> float:
        """The value at a time in epochs."""
        cycle = min(max(math.floor(epoch / self._period), 0), self.cycles - 1)
        part = (epoch / self._period - cycle) / self.ramp  # of the ramp
        return self._at(min(max(part, 0.0), 1.0))

    def largest(self) -> float:
        """Its largest value."""
        return max(self.start, self.stop)


class Stages(Schedule):
    """``values[i]`` for ``epochs[i]`` epochs each, then the last value (IWAE's learning rate: 8 stages).

    Source: Burda et al. 2016, arXiv:1509.00519, section 5.

    Example:
        >>> from pyro_vae.training import Stages
        >>> rate = Stages([1e-3, 1e-4], epochs=[3, 3])
        >>> rate(0), rate(3), rate(9)
        (0.001, 0.0001, 0.0001)
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

    def largest(self) -> float:
        """Its largest value."""
        return max(self.values)


def as_schedule(value: float | Schedule) -> Schedule:
    """A schedule as it is; a number as a constant one."""
    return value if isinstance(value, Schedule) else Constant(float(value))


class ScheduledBuffers:
    """Buffers of a model and its guide, each with the schedule that sets it before every step.

    A buffer is a tensor that recorded and compiled steps read anew, so a value that is scheduled needs no recording
    again. It is looked up in its module at every step: it may have been moved or made anew.

    Args:
        model, guide: the programs.
        schedules: by name of the buffer, ``"model.…"`` or ``"guide.…"`` as in the weights' file, 0-dimensional and of
            floating point.

    Raises:
        InputError: for a name that is not of such a buffer.
    """

    def __init__(self, model: Program, guide: Program, schedules: Mapping[str, Schedule]) -> None:
        owners = {"model": owner(model), "guide": owner(guide)}
        self._places = {name: _place(owners, name) for name in schedules}
        self.schedules = dict(schedules)

    @torch.no_grad()
    def set(self, epoch: float) -> None:
        """Give every buffer its value at a time in epochs."""
        for name, value in self.values(epoch).items():
            module, key = self._places[name]
            module.get_buffer(key).fill_(value)

    def values(self, epoch: float) -> dict[str, float]:
        """The schedules' values at a time in epochs, by the buffers' names."""
        return {name: schedule(epoch) for name, schedule in self.schedules.items()}


def warn_of_long(schedules: Mapping[str, Schedule], epochs: int) -> None:
    """Say in the log which values, by what they are called, will not have come to their ends when training has."""
    for what, schedule in schedules.items():
        if schedule.end > epochs:
            logger.warning(
                "%s reaches its final value at epoch %g, after training ends (%d epochs): it ends at %g",
                what,
                schedule.end,
                epochs,
                schedule(epochs),
            )


def owner(program: Program) -> nn.Module:
    """The user's module; of a plain function, the program itself, which owns what it trains."""
    return program.program if isinstance(program.program, nn.Module) else program


def _place(owners: Mapping[str, nn.Module], name: str) -> tuple[nn.Module, str]:
    """The module that holds a buffer, and the buffer's name in it."""
    found = {f"{who}.{n}": b for who, m in owners.items() for n, b in m.named_buffers(remove_duplicate=False)}
    usable = [n for n, buffer in found.items() if _is_scalar(buffer)]
    parameters = {f"{who}.{n}" for who, m in owners.items() for n, _ in m.named_parameters(remove_duplicate=False)}
    if name in parameters:
        raise InputError(f"schedules: '{name}' is a parameter, which the optimizer moves; a schedule sets a buffer")
    if name in found and name not in usable:
        raise InputError(
            f"schedules: buffer '{name}' is {found[name].dtype} of shape {tuple(found[name].shape)}; it must be "
            "0-dimensional and of floating point"
        )
    if name not in usable and not usable:
        raise InputError(f"schedules: unknown buffer '{name}'; model and guide have no buffer that a schedule can set")
    if name not in usable:
        raise unknown("buffer in schedules", name, usable)
    who, _, path = name.partition(".")
    inside, _, key = path.rpartition(".")
    return owners[who].get_submodule(inside), key


def _is_scalar(buffer: Tensor) -> bool:
    return buffer.dim() == 0 and buffer.is_floating_point()
