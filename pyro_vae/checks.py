"""Checks of data against programs, made once before work starts and never inside a step."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.util import validation_enabled
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.program import Batch, Program, declared_context, prime, required_arguments
from pyro_vae.traces import Site, is_observed

CHUNK = 1000  # data looked at together


def check_data(model: Program, guide: Program, split: Split) -> tuple[Trace, Trace]:
    """Check that a split's data lie in the support of the model's data sites, and that the programs take the context.

    Runs both programs on two data to find the sites, then looks at all the data in chunks.

    Returns:
        the model's and the guide's trace on the first two data (the only one, if there is one).

    Raises:
        InputError: names the site and its likelihood, or the argument, shows the offending range, and says what would
            be right.
    """
    first = split.batch(slice(0, 2))
    for program, who in ((model, "model"), (guide, "guide")):
        check_present(program, first, who)
        check_context(program, first)
    with validation_enabled(False):
        model_trace, guide_trace = prime(model, guide, first)
    sites = {n: s for n, s in model_trace.nodes.items() if is_observed(s) and n in first}
    for name, site in sites.items():
        check_values(name, site, first)
    for batch in split.batches(CHUNK):
        for name, site in sites.items():
            check_values(name, site, batch)
        for program in (model, guide):
            check_context(program, batch)
    return model_trace, guide_trace


def check_present(program: Program, batch: Batch, who: str) -> None:
    """Check that a batch has all that a program cannot do without.

    Raises:
        InputError: names what is missing.
    """
    missing = [name for name in required_arguments(program, batch) if name not in batch]
    if missing:
        raise InputError(
            f"the {who} needs {', '.join(missing)}, which the data do not have (they have: {', '.join(batch)})"
        )


def check_context(program: Program, batch: Batch) -> None:
    """Check what of a batch is a program's declared context; a program that declares nothing is not checked.

    Raises:
        InputError: see :meth:`pyro_vae.context.Context.check`.
    """
    for name, context in declared_context(program).items():
        if name in batch:
            context.check(name, batch[name])


def check_values(name: str, site: Site, batch: Batch) -> None:
    """Check one batch's values of a data site against its distribution's shape and support.

    Raises:
        InputError: see :func:`check_data`.
    """
    fn, value = site["fn"], batch[name]
    event = tuple(fn.event_shape)
    inner_plates = any(f.vectorized and f.dim != -1 for f in site["cond_indep_stack"])  # the program lays x out itself
    if not inner_plates and tuple(value.shape[1:]) != event:
        raise InputError(
            f"data '{name}' have shape {tuple(value.shape[1:])} each, but site '{name}' has event shape {event}"
        )
    support = fn.support
    if _depends_on_parameters(support):
        return
    if not bool(support.check(value).all()):
        raise InputError(_complaint(name, _innermost(fn), value))


def _depends_on_parameters(support: Any) -> bool:
    """Whether a constraint holds tensors (bounds that differ between data), so that it fits one batch only."""
    base = support
    while hasattr(base, "base_constraint"):
        base = base.base_constraint
    return any(isinstance(v, Tensor) and v.numel() > 1 for v in vars(base).values())


def _innermost(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _complaint(name: str, fn: Any, value: Tensor) -> str:
    low, high = value.min().item(), value.max().item()
    base = getattr(fn.support, "base_constraint", fn.support)
    text = (
        f"data '{name}' (values from {low:.4g} to {high:.4g}) lie outside the support {base} of its likelihood "
        f"{type(fn).__name__}"
    )
    if base is constraints.boolean:
        grey = torch.logical_and(value != 0, value != 1).float().mean().item()
        text += (
            f": {100 * grey:.0f}% of the values are neither 0 nor 1. Binarize them (binarization='dynamic', 'static' "
            "or 'threshold'), or choose a likelihood for grey data (Gaussian, Categorical)"
        )
    return text
