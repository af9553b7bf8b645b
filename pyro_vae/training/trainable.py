"""What is checked of a pair before it is trained."""

from __future__ import annotations

import logging

from torch import nn

from pyro_vae.errors import InputError
from pyro_vae.programs.baselines import check_baselines, networks
from pyro_vae.programs.pair import Batch, Pair
from pyro_vae.programs.parameters import densities_of, leaves_of
from pyro_vae.programs.program import evaluation_mode
from pyro_vae.programs.sites import Site, innermost, is_delta, is_discrete, may_leave
from pyro_vae.programs.traces import TracePair, is_latent

logger = logging.getLogger(__name__)


def check_trainable(pair: Pair, batch: Batch) -> None:
    """Refuse what training would do wrongly, and say in the log what is no bound.

    Args:
        pair: examined programs.
        batch: a few data.

    Raises:
        InputError: for a baseline that cannot be followed, and for a guide that draws outside the support of the model.
    """
    with evaluation_mode(pair.model, pair.guide):  # to look is not to move codebooks, statistics and averages
        traces = pair.traces(batch)
        check_baselines(traces.guide, pair.sums.names, traces.shared)
        for site in filter(is_latent, traces.guide.nodes.values()):
            _check_own_parameters(site, pair, traces)
    for name, (q, p) in traces.latent().items():
        if p is not None and not is_delta(q["fn"]) and may_leave(q["fn"], p["fn"]):
            kinds = [type(innermost(site["fn"])).__name__ for site in (q, p)]
            raise InputError(
                f"latent site '{name}': the guide's {kinds[0]} draws values outside the support of the model's "
                f"{kinds[1]}, where the ELBO is -inf: give the guide a distribution on that support"
                + (", such as LogNormal or Gamma" if is_discrete(p["fn"]) is False else "")
            )
    if pair.sums:
        logger.info("summed over exactly: %s", ", ".join(sorted(pair.sums.names)))
    modules = [m for program in (pair.model, pair.guide) if isinstance(program, nn.Module) for m in program.modules()]
    for said in dict.fromkeys(str(getattr(module, "training_remark", "")) for module in modules):
        if said:
            logger.warning(said)
    for name in pair.point_masses:
        logger.warning(
            "latent site '%s': the guide is a point mass at a continuous latent; what is minimized is -log p(x, z) at "
            "that point, no bound on log p(x), and evaluation will refuse it",
            name,
        )
    for name in sorted(pair.left_out):
        logger.warning(
            "factor '%s' of the guide is no part of the density of what it draws: it is minimized with the loss, as by "
            "plain SVI, and left out of every bound; say so by pyro_vae.programs.handlers.penalty('%s', value)",
            name,
            name,
        )


def _check_own_parameters(site: Site, pair: Pair, traces: TracePair) -> None:
    """Refuse a baseline that is fitted by parameters of the densities: these would learn to be easy to predict."""
    own = {id(leaf) for leaf in leaves_of(networks(site))}
    made = [value for trace in (traces.guide, traces.model) for value in densities_of(trace, params=False)]
    for leaf in leaves_of(made) if own else ():
        if id(leaf) in own:
            programs = [p for p in (pair.guide, pair.model) if isinstance(p, nn.Module)]
            named = [item for program in programs for item in program.named_parameters()]
            which = next((f" '{name}'" for name, parameter in named if parameter is leaf), "")
            raise InputError(
                f"site '{site['name']}': its baseline is made of a parameter{which} {tuple(leaf.shape)} that the "
                "model's or the guide's densities are made of too, and fitting it would bias their gradient: give the "
                "baseline parameters of its own, or detach the others in it"
            )
