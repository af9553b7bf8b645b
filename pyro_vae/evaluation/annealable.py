"""Which pairs can be annealed: continuous latents whose densities are known at every value."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.evaluation.nodes import in_data_plate
from pyro_vae.evaluation.support import check_covered
from pyro_vae.program import Batch, Program
from pyro_vae.sites import is_delta
from pyro_vae.traces import Site, TracePair, is_latent

FROM_PRIOR = 'anneal from the prior, start="prior", which needs no guide'


def check_model(trace: Trace) -> None:
    """Check a model's latent sites.

    Raises:
        InputError: names a latent that is shared by all data, a point mass, or discrete.
    """
    for name, site in trace.nodes.items():
        if not is_latent(site):
            continue
        fn = site["fn"]
        if not in_data_plate(site):
            raise InputError(
                f"latent site '{name}' is outside the data plate: a bound per datum is not defined for a latent that "
                "all data share"
            )
        if is_delta(fn):
            raise InputError(
                f"latent site '{name}' is a point mass, which has no density to be annealed; use log_likelihood"
            )
        if is_discrete(fn):
            raise InputError(
                f"latent site '{name}' is discrete ({type(fn).__name__}): annealing moves latents along gradients and "
                "needs continuous ones; use log_likelihood"
            )


def check_guide(pair: TracePair, model: Program, batch: Batch) -> None:
    """Check that a guide's density of the model's latents, which are continuous, is known wherever chains may go.

    Args:
        pair: traces of both programs.
        model, batch: to draw from the prior with.

    Raises:
        InputError: names a site that is the guide's alone, a point mass, or a flow without an inverse; one whose
            support does not cover the model's.
    """
    for name, (q, p) in pair.latent().items():
        if p is None:
            raise InputError(
                f"site '{name}' is the guide's alone, so that the guide's density of the model's latents is not known: "
                f"{FROM_PRIOR}"
            )
        if is_delta(q["fn"]):
            raise InputError(
                f"latent site '{name}' is a point mass in the guide, whose density at other values than the one drawn "
                f"is not known: {FROM_PRIOR}"
            )
        _check_known_everywhere(name, q)
    check_covered(pair, model, batch)


def check_left_out(left_out: Tensor, u: Tensor, *gradients: Tensor) -> None:
    """Check that nothing depends on what masks leave out of the latents.

    Args:
        left_out: which numbers of u, ``(C, N, D)``.
        u: the chains' latents.
        gradients: of log-densities, with the stand-in -|u|^2 / 2 for what is left out.

    Raises:
        InputError: if they do: p(x) is not defined by a latent that has no density.
    """
    if any(bool((((g + u).abs() / (1 + u.abs()))[left_out] > 1e-3).any()) for g in gradients):
        raise InputError(
            "the data, or other latents, depend on elements of the latents that a mask leaves out, and that so have no "
            "density: p(x) is not defined; mask what depends on them as well"
        )


def is_discrete(fn: Any) -> bool:
    """Whether a distribution draws from a set that can be counted."""
    return bool(getattr(fn, "has_enumerate_support", False) or fn.support.is_discrete)


def _check_known_everywhere(name: str, site: Site) -> None:
    """A flow may know its density at what it has drawn itself only."""
    try:
        with torch.no_grad():
            site["fn"].log_prob(site["value"].clone())
    except (KeyError, NotImplementedError) as error:
        told = str(error).strip("'\"") or type(error).__name__
        raise InputError(
            f"latent site '{name}': the guide's density at values that it has not drawn itself is not known ({told}): "
            f"{FROM_PRIOR}"
        ) from error
