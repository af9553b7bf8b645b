"""Schedules for buffers of the programs."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError, unknown
from pyro_vae.inference.schedules import Schedule
from pyro_vae.program import Program

logger = logging.getLogger(__name__)


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
        owners = {"model": _owner(model), "guide": _owner(guide)}
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


def _owner(program: Program) -> nn.Module:
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
