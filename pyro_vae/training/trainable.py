"""What training would do wrongly with a pair of programs, before it begins."""

from __future__ import annotations

import logging

from pyro_vae.errors import InputError
from pyro_vae.programs.baselines import check as check_baseline
from pyro_vae.programs.pair import Batch, Pair
from pyro_vae.programs.program import evaluation_mode
from pyro_vae.programs.sites import innermost, is_delta, is_discrete, may_leave
from pyro_vae.programs.traces import is_latent

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
    for site in traces.guide.nodes.values():
        if site["type"] == "sample" and is_latent(site):
            check_baseline(site, enumerated=site["name"] in pair.sums.names)
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
