"""What every estimator does first: programs on a device in evaluation mode, checked data, a private seed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.checks import check_data, data_type
from pyro_vae.data import Data, Split, held_out
from pyro_vae.errors import InputError
from pyro_vae.evaluation.nodes import check_whole, is_deterministic
from pyro_vae.pair import Pair, examine
from pyro_vae.program import as_programs
from pyro_vae.runtime import as_device, check_seed, private_seed

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
    *,
    max_plate_nesting: int = 1,
    vectorize: bool = True,
    bounds: bool = True,
) -> Iterator[tuple[Pair, Split]]:
    """A pair in evaluation mode without gradients, examined, and the data beside it on the device.

    Modes and random states are put back at the end. Of :class:`~pyro_vae.data.Data` the test part is taken, or the
    validation part. Dynamic binarization is drawn once.

    Args:
        model, guide: Pyro programs.
        data: what to evaluate on.
        seed: of all draws inside the block.
        device: where to; the programs' own if None.
        max_plate_nesting: batch dimensions of the programs' own plates.
        vectorize: particles in a plate, if the programs give the same numbers so; False: each datum is repeated.
        bounds: whether the guide's density is used, and so is to be the density of what it draws.

    Raises:
        InputError: for an unknown device or one that is not here, and what is no seed; if the data are not in the
            support of the model's likelihood, a program subsamples a plate, or the weights of the pair are no bound
            (:func:`pyro_vae.bounds.check_bound`).
    """
    check_seed(seed)
    target = None if device is None else as_device(device)
    programs = as_programs(model, guide)
    split = held_out(data).fixed()
    known = {name for program in programs for name in program.store.names}
    parameter = next((p for program in programs for p in program.parameters()), None)
    target = parameter.device if target is None and parameter is not None else target
    split = split.to(target or split.device)
    for program in programs:
        program.to(split.device)
    split = split.to(split.device, data_type(*programs, split))
    modes = [(m, m.training) for program in programs for m in program.modules()]
    try:
        for program in programs:
            program.eval()
        with torch.no_grad(), private_seed(seed, split.device):
            traces = check_data(*programs, split)
            for trace in traces:
                check_whole(trace, min(2, len(split)))
            _warn_of_initial_values({name for p in programs for name in p.store.names} - known)
            modes += [(m, True) for p in programs for m in p.modules() if m not in {module for module, _ in modes}]
            for program in programs:
                program.eval()
            pair = examine(
                *programs,
                split.batch(slice(0, 2)),
                max_plate_nesting,
                vectorize=vectorize,
                num_data=len(split),
                bounds=bounds,
                traces=traces,
            )
            with pyro.validation_enabled(False):
                yield pair, split
    finally:
        for module, mode in modes:
            module.training = mode


def anything_to_draw(pair: Pair, split: Split) -> bool:
    """Whether a guide has random latents; if not, one particle is as good as many. Uses no random numbers."""
    with private_seed(0, split.device):
        return not is_deterministic(pair.traces(split.batch(slice(0, 1))))


def _warn_of_initial_values(names: set[str]) -> None:
    """Plain functions' ``pyro.param`` values live in what training returned, not in the functions."""
    if names:
        logger.warning(
            "pyro.param %s: evaluated at initial values; after training, evaluate result.model and result.guide",
            ", ".join(sorted(names)),
        )
