"""What a pair may have that training does not do, or does differently than one may think."""

from __future__ import annotations

import logging

from pyro_vae.errors import InputError
from pyro_vae.pair import Batch, Pair, evaluated
from pyro_vae.sites import Site, innermost, is_delta, is_discrete, may_leave
from pyro_vae.traces import is_latent

logger = logging.getLogger(__name__)


def check_trainable(pair: Pair, batch: Batch) -> None:
    """Refuse what training would do wrongly, and say in the log what is no bound.

    Args:
        pair: examined programs.
        batch: a few data.

    Raises:
        InputError: for hints of enumeration and baselines, which are not followed, and for a guide that draws outside
            the support of the model.
    """
    with evaluated(pair.model, pair.guide):  # to look is not to move codebooks, statistics and averages
        traces = pair.traces(batch)
    for site in (*traces.guide.nodes.values(), *traces.model.nodes.values()):
        if site["type"] == "sample" and is_latent(site):
            _check_hints(site)
    for name, (q, p) in traces.latent().items():
        if p is not None and not is_delta(q["fn"]) and may_leave(q["fn"], p["fn"]):
            kinds = [type(innermost(site["fn"])).__name__ for site in (q, p)]
            raise InputError(
                f"latent site '{name}': the guide's {kinds[0]} draws values outside the support of the model's "
                f"{kinds[1]}, where the ELBO is -inf: give the guide a distribution on that support"
                + (", such as LogNormal or Gamma" if is_discrete(p["fn"]) is False else "")
            )
    for name in pair.point_masses:
        logger.warning(
            "latent site '%s': the guide is a point mass at a continuous latent; what is minimized is -log p(x, z) at "
            "that point, no bound on log p(x), and evaluation will refuse it",
            name,
        )
    for name in sorted(pair.left_out):
        logger.warning(
            "factor '%s' of the guide is no part of the density of what it draws: it is minimized with the loss, as by "
            "plain SVI, and left out of every bound; say so by pyro_vae.penalty.penalty('%s', value)",
            name,
            name,
        )


def _check_hints(site: Site) -> None:
    if site["infer"].get("enumerate"):
        raise InputError(
            f"site '{site['name']}' is marked infer={{'enumerate': …}}, which training does not follow yet: take the "
            "mark out (it is then trained by a score function), or train with pyro.infer.SVI and TraceEnum_ELBO"
        )
    if site["infer"].get("baseline"):
        raise InputError(
            f"site '{site['name']}' has infer={{'baseline': …}}, which training does not follow: take it out, or train "
            "with pyro.infer.SVI and TraceGraph_ELBO"
        )
