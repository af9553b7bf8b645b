"""Helpers of guides: a model's data and latent shapes, and its top-down pass run with posteriors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.programs.context import X, accepted_arguments, required_arguments
from pyro_vae.programs.data_sites import site_of_run
from pyro_vae.programs.enumeration import is_countable
from pyro_vae.programs.program import Program, evaluation_mode
from pyro_vae.programs.sites import REAL, elementwise, factors
from pyro_vae.programs.traces import is_latent, traced
from pyro_vae.runtime import same_random_state


def data_and_latent_shapes(model: Callable[..., Any]) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """Event shapes of the data site (x, or else the only one) and of the latent sites, in the order of drawing.

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
    with evaluation_mode(program), same_random_state(), torch.no_grad():  # of one datum no batch statistics
        trace = traced(program, num_samples=1)
        sites = {n: s for n, s in trace.nodes.items() if is_latent(s)}
        try:
            data = X if X in sites else site_of_run(program, trace, {}, None, None)
        except InputError as error:
            raise InputError(
                f"which of the model's sites is its data cannot be told ({', '.join(sites)}): call the site x, or "
                "write a guide of your own"
            ) from error
    sites = {n: s for n, s in trace.nodes.items() if is_latent(s)}  # those of steps are joined
    latents, arguments = {}, accepted_arguments(program.program) or ()
    for name, site in sites.items():
        if name == data or name in arguments or is_countable(site["fn"]):  # another data site; what is summed over
            continue
        support = site["fn"].support
        if elementwise(support) not in REAL:
            raise InputError(
                f"latent site '{name}' has support {support}, a Gaussian guide needs real values: "
                "write a guide of your own for it"
            )
        if not any(frame.dim == -1 for frame in site["cond_indep_stack"]):
            raise InputError(f"latent site '{name}' is outside the data plate at dim -1")
        latents[name] = tuple(site["fn"].event_shape)
    if not latents:
        raise InputError("the model has no latent site for a guide to sample")
    return tuple(sites[data]["fn"].event_shape), latents


def vectors_bottom_up(latents: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Sizes of latent vectors, the one nearest to the data first: the reverse of the order of drawing.

    Raises:
        InputError: names a latent that is not a vector.
    """
    for name, shape in latents.items():
        if len(shape) != 1:
            raise InputError(f"latent site '{name}' has event shape {shape}; this guide needs vectors (dim,)")
    return {name: latents[name][0] for name in reversed(latents)}


Posterior = Callable[[str, dist.Normal, dict[str, Any]], dist.Normal]


def draw_top_down(
    model: Callable[..., Any],
    posterior: Posterior,
    latents: Collection[str],
    batch: dict[str, Any],
    drawn: Mapping[str, Tensor] | None = None,
) -> None:
    """Run the model as a guide: at each latent site it draws from a posterior that may depend on p's conditional there.

    The model is run on its data, its top-down networks with it, up to its last latent site: what makes x of the
    latents is not run.

    Args:
        model: the generative program.
        posterior: gives q(z_i | .) from the site's name, p(z_i | z_{>i}) and the site's ``infer`` entries.
        latents: names of the model's latent sites.
        batch: what the model may be called with; it is given the entries that it has arguments for.
        drawn: values of latents that the guide has sampled already, ``(..., batch, *event)``, in a data plate of its
            own. None: it has none, and the plate is the model's.
    """
    known = accepted_arguments(model)
    arguments = {k: v for k, v in batch.items() if known is None or k in known}
    try:
        with _TopDown(posterior, latents, drawn):
            model(**arguments)
    except _AllDrawn:
        pass


class _AllDrawn(BaseException):
    """Every latent site has its value; not an Exception, which a model might catch."""


class _TopDown(Messenger):
    def __init__(self, posterior: Posterior, latents: Collection[str], drawn: Mapping[str, Tensor] | None) -> None:
        super().__init__()
        self.posterior, self.missing, self.drawn = posterior, set(latents), drawn or {}
        self.own_plate = drawn is not None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.missing:
            # data sites are the model's business, and so is its plate, if the guide has one of its own
            msg["stop"] = self.own_plate or type(msg["fn"]).__name__ != "_Subsample"
            return
        if msg["name"] in self.drawn:
            msg["value"], msg["done"], msg["stop"] = self.drawn[msg["name"]], True, True
            return
        p = gaussian(msg["name"], msg["fn"])
        q = self.posterior(msg["name"], p, msg["infer"])
        q = q.expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))  # p is in all the model's plates
        msg["fn"] = q.to_event(msg["fn"].event_dim)

    def _pyro_post_sample(self, msg: Any) -> None:
        self.missing.discard(msg["name"])
        if not self.missing:
            raise _AllDrawn


def gaussian(name: str, fn: Any) -> dist.Normal:
    """The elementwise Gaussian that a site's distribution is made of.

    Raises:
        InputError: if it is not Gaussian; names the site.
    """
    fn, _ = factors(fn)
    if not isinstance(fn, dist.Normal):
        raise InputError(
            f"latent site '{name}' is {type(fn).__name__}; a top-down guide merges Gaussians: make it a Normal, or "
            "write a guide of your own"
        )
    return fn
