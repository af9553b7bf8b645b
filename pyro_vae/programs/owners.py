"""Which weights of a pair are the model's: those that stay as they are while the guide alone is trained."""

from __future__ import annotations

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.programs.parameters import densities_of, leaves_of
from pyro_vae.programs.program import Batch, Program, prime


def weights_of_model(model: Program, guide: Program, batch: Batch) -> tuple[list[nn.Parameter], list[nn.Module]]:
    """The parameters that the model has or uses, those that it shares with the guide among them, and its modules.

    Of the ``pyro.param`` values of plain functions, which both keep in one place, those are the model's that its
    densities are made of at what the guide has drawn.

    Args:
        model, guide: in evaluation mode.
        batch: some data, which both are run on.
    """
    _, of_densities = _used(model, guide, batch)
    used = {id(leaf) for leaf in of_densities}
    store = model.store
    of_guide = {id(p) for name, p in store.named_parameters(recurse=False)} - used
    ours = [p for p in model.parameters() if id(p) not in of_guide]
    ours += [p for p in guide.parameters() if id(p) in used]
    return list(dict.fromkeys(ours)), [m for m in model.modules() if m is not store and m is not model]


def own_weights(model: Program, guide: Program, batch: Batch) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of a pair, those that the model uses apart from those that are the guide's alone.

    A parameter that both use is the model's. One that stands in both programs (methods of one class) is of the program
    that uses it.

    Args:
        model, guide, batch: as for :func:`weights_of_model`.

    Returns:
        the model's and the guide's.
    """
    of_guide, of_model = ({id(leaf) for leaf in leaves} for leaves in _used(model, guide, batch))
    stands = {id(p) for p in model.parameters()}
    every = dict.fromkeys(p for program in (model, guide) for p in program.parameters())
    own = {p for p in every if id(p) not in of_model and (id(p) in of_guide or id(p) not in stands)}
    return [p for p in every if p not in own], [p for p in every if p in own]


def _used(model: Program, guide: Program, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """What is trained in the guide's densities and draws, and in the model's densities at these draws."""
    prime(model, guide, batch)
    with torch.enable_grad():
        drawn = poutine.trace(guide).get_trace(**batch)
        of_guide = leaves_of(densities_of(drawn))
        for site in drawn.nodes.values():
            if site["type"] == "sample" and isinstance(site["value"], Tensor):
                site["value"] = site["value"].detach()  # so that what the guide is made of is none of the model's
        trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(**batch)
        return of_guide, leaves_of(densities_of(trace))
