"""What a guide reads from its model: the shapes of data and latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites

from pyro_vae.arguments import accepted_arguments, required_arguments
from pyro_vae.errors import InputError
from pyro_vae.program import Program


def data_and_latent_shapes(
    model: Callable[..., Any], data_site: str
) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """Event shapes of the data site and of the latent sites, in the order in which the model draws them.

    The model is run once without data, in evaluation mode; modes and random state are put back.

    Raises:
        InputError: if the model has no such data site, has no latent site, or has one that is not real-valued or
            not in the data plate; if the model needs context.
    """
    program = model if isinstance(model, Program) else Program(model)
    needed = required_arguments(program)
    if needed:
        raise InputError(
            f"the model needs {', '.join(needed)}, which this guide does not look at: use the guide that belongs "
            "to the model, or write one with these arguments"
        )
    modes = [(module, module.training) for module in program.modules()]
    program.eval()  # one datum has no batch statistics
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            trace = prune_subsample_sites(poutine.trace(program).get_trace(num_samples=1))
    finally:
        for module, mode in modes:
            module.training = mode
    sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not s["is_observed"]}
    if data_site not in sites:
        raise InputError(f"the model has no data site '{data_site}'; its sites are: {', '.join(sites)}")
    latents, arguments = {}, accepted_arguments(program.program) or ()
    for name, site in sites.items():
        if name == data_site or name in arguments:  # another data site
            continue
        support = site["fn"].support
        if not _is_real(support):
            raise InputError(
                f"latent site '{name}' has support {support}, a Gaussian guide needs real values: "
                "write a guide of your own for it"
            )
        if not any(frame.dim == -1 for frame in site["cond_indep_stack"]):
            raise InputError(f"latent site '{name}' is outside the data plate at dim -1")
        latents[name] = tuple(site["fn"].event_shape)
    if not latents:
        raise InputError("the model has no latent site for a guide to sample")
    return tuple(sites[data_site]["fn"].event_shape), latents


def _is_real(support: Any) -> bool:
    while hasattr(support, "base_constraint"):  # independent dimensions, mixtures
        support = support.base_constraint
    return support in (dist.constraints.real, dist.constraints.real_vector)


def vectors_bottom_up(latents: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Sizes of latent vectors, the one nearest to the data first: the reverse of the order of drawing.

    Raises:
        InputError: names a latent that is not a vector.
    """
    for name, shape in latents.items():
        if len(shape) != 1:
            raise InputError(f"latent site '{name}' has event shape {shape}; this guide needs vectors (dim,)")
    return {name: latents[name][0] for name in reversed(latents)}
