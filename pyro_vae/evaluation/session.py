"""What every estimator does first: programs on a device in evaluation mode, checked data, a private seed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.checks import check_data
from pyro_vae.data import Data, Split, held_out
from pyro_vae.errors import InputError
from pyro_vae.evaluation.nodes import check_whole, is_deterministic
from pyro_vae.program import Program, as_programs, real_type
from pyro_vae.runtime import private_seed
from pyro_vae.traces import trace_pair

logger = logging.getLogger(__name__)


def positive(name: str, value: int) -> int:
    """The value, if it is a positive integer.

    Raises:
        InputError: otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a positive integer, got {value!r}")
    return value


@contextmanager
def evaluating(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data | Split | Mapping[str, Tensor] | Tensor,
    seed: int,
    device: str | torch.device | None = None,
) -> Iterator[tuple[Program, Program, Split]]:
    """Programs in evaluation mode without gradients, and the data beside them on the device.

    Modes and random states are put back at the end. Of :class:`~pyro_vae.data.Data` the held-out part is taken
    (:func:`~pyro_vae.data.held_out`).

    Args:
        model, guide: Pyro programs.
        data: what to evaluate on.
        seed: of all draws inside the block.
        device: where to; the programs' own if None.

    Raises:
        InputError: if the data are not in the support of the model's likelihood, or a program subsamples a plate.
    """
    programs = as_programs(model, guide)
    split = held_out(data).fixed()
    parameter = next((p for program in programs for p in program.parameters()), None)
    target = torch.device(device) if device is not None else (parameter.device if parameter is not None else None)
    split = split.to(target or split.device, real_type(*programs))
    modes = [(m, m.training) for program in programs for m in program.modules()]
    try:
        for program in programs:
            program.to(split.device).eval()
        with torch.no_grad(), private_seed(seed, split.device):
            for trace in check_data(*programs, split):
                check_whole(trace, min(2, len(split)))
            _warn_of_initial_values(model, guide, programs)
            with pyro.validation_enabled(False):
                yield *programs, split
    finally:
        for module, mode in modes:
            module.training = mode


def anything_to_draw(model: Program, guide: Program, split: Split, max_plate_nesting: int) -> bool:
    """Whether a guide has random latents; if not, one particle is as good as many. Uses no random numbers."""
    with private_seed(0, split.device):
        return not is_deterministic(trace_pair(model, guide, (), split.batch(slice(0, 1)), 1, max_plate_nesting))


def _warn_of_initial_values(model: Any, guide: Any, programs: tuple[Program, Program]) -> None:
    """Plain functions' ``pyro.param`` values live in what training returned, not in the functions."""
    names = {
        n
        for given, p in zip((model, guide), programs, strict=True)
        if given is not p and p.store
        for n in p.store.names
    }
    if names:
        logger.warning(
            "pyro.param %s: evaluated at initial values; after training, evaluate result.model and result.guide",
            ", ".join(sorted(names)),
        )
