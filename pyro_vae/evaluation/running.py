"""Running a program so that nothing is left behind, and without its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.checks import check_context
from pyro_vae.data.split import as_real
from pyro_vae.errors import InputError
from pyro_vae.evaluation.nodes import check_whole
from pyro_vae.program import Program, accepted_arguments, needed_to_generate, real_type


@contextmanager
def quiet(programs: Sequence[Program], batch: Mapping[str, Tensor], seed: int) -> Iterator[dict[str, Tensor]]:
    """Evaluation mode, no gradients, and a random state of its own; all is put back afterwards.

    Args:
        programs: their modules' training flags are restored one by one.
        batch: moved to the device of the programs' parameters, and to float64 if they are.
        seed: of the CPU's generator and of the devices' that are used.

    Yields:
        the batch on the programs' device.

    Raises:
        InputError: if the batch holds context that a program says it does not take.
    """
    modes = [(module, module.training) for program in programs for module in program.modules()]
    tensors = [t for program in programs for t in (*program.parameters(), *program.buffers())]
    if tensors:
        batch = {name: value.to(tensors[0].device) for name, value in batch.items()}
        real = real_type(*programs)
        batch = batch if real is None else {name: as_real(value, real) for name, value in batch.items()}
    used = [*tensors, *batch.values()]
    devices = sorted({t.device.index for t in used if t.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for program in programs:
            check_context(program, batch)
        for index in devices:  # not torch.manual_seed, which would seed devices that nobody restores
            torch.cuda.default_generators[index].manual_seed(seed)
        try:
            for module, _ in modes:
                module.training = False
            yield dict(batch)
        finally:
            for module, training in modes:
                module.training = training


def trace_without_data(
    program: Program, count: int, context: Mapping[str, Tensor], site: str, run: Callable[..., Any] | None = None
) -> Trace:
    """Trace a program whose data argument is None, for a plate of ``count`` data.

    Args:
        program: the model.
        count: number of data to generate.
        context: its other arguments, ``(count, ...)`` each.
        site: the data site, and the name of the argument that is None.
        run: what to call in its stead: the program under handlers.

    Raises:
        InputError: if the model takes neither ``num_samples`` nor a context to know the number from, or lacks a
            context that it needs; if it takes a part of a plate.
    """
    missing = [name for name in needed_to_generate(program, site) if name not in context]
    if missing:
        raise InputError(f"the model needs {', '.join(missing)} to generate: give it in batch")
    if not takes(program, "num_samples") and not any(takes(program, name) for name in context):
        raise InputError(
            f"the model cannot be run without data: give it an argument num_samples, "
            f"the size of its data plate when {site} is None"
        )
    arguments = {**context, site: None, "num_samples": count}
    trace = prune_subsample_sites(poutine.trace(run or program).get_trace(**arguments))
    check_whole(trace)
    return trace


def takes(program: Program, argument: str) -> bool:
    """Whether a program has an argument of this name."""
    names = accepted_arguments(program.program)
    return names is None or argument in names
