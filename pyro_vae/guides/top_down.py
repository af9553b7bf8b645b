"""A guide that runs the model's own top-down pass, with posteriors in place of its conditionals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.arguments import accepted_arguments
from pyro_vae.errors import InputError

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
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    if not isinstance(fn, dist.Normal):
        raise InputError(
            f"latent site '{name}' is {type(fn).__name__}; a top-down guide merges Gaussians: make it a Normal, or "
            "write a guide of your own"
        )
    return fn
