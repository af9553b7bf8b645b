"""Pyro's automatic guides: which of them serve data in batches."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.parameters import ParameterStore, ParamStatements, module_parameters
from pyro_vae.program import Program
from pyro_vae.sites import Site
from pyro_vae.traces import is_latent


def refuse_unamortized(guide: Program, batch: Mapping[str, Tensor]) -> None:
    """Refuse an automatic guide with parameters for each datum, which fit no other batch than the one it saw first.

    Those of latents that all data share, as weights with priors, serve.

    Args:
        guide: not run yet.
        batch: a few data.

    Raises:
        InputError: names the guide's class and the site.
    """
    count = len(next(iter(batch.values())))
    for module in guide.modules():
        if isinstance(module, AutoGuide) and not isinstance(module.model, AutoGuide):
            statements = ParamStatements(ParameterStore())
            with torch.no_grad(), torch.random.fork_rng(), module_parameters(guide), statements:
                nodes = poutine.trace(module.model).get_trace(**batch).nodes
            name = next((n for n, site in nodes.items() if is_latent(site) and _grows(site, count)), None)
            if name is not None:
                raise InputError(
                    f"{type(module).__name__} keeps parameters of its own for each datum's '{name}', which fit only "
                    "the data that it saw first: such a guide cannot be trained in batches, or measured on others. "
                    "Write a guide that computes q(z | x) from x (guides.GaussianGuide(model), or a network); an "
                    f"automatic one may serve what all data share: {type(module).__name__}(poutine.block(model, "
                    f"hide=['{name}', …])), called from within that guide"
                )


def _grows(site: Site, count: int) -> bool:
    return any(frame.dim == -1 and frame.size == count for frame in site["cond_indep_stack"])
