"""What models of codes are given, and what their priors say of texts."""

from __future__ import annotations

from dataclasses import replace

import pyro
from torch import Tensor, nn

from pyro_vae.context import Context
from pyro_vae.priors import Prior, TransformerPrior


def given_to(priors: nn.ModuleDict) -> dict[str, Context]:
    """What priors over codes make a model take: a label ``y``, and a ``text``, which is drawn if it is not given."""
    declared = {k: v for prior in priors.values() if isinstance(prior, Prior) for k, v in prior.context.items()}
    given = {name: declared[name] for name in ("y", "text") if name in declared}
    if _with_text(priors) is not None:
        given["text"] = replace(given["text"], drawn=True)
    return given


def sample_text(priors: nn.ModuleDict, text: Tensor | None) -> Tensor | None:
    """text ~ p(text) of the first prior that has one, observed if it is given: the site ``text``.

    So a model with such a prior is one of data and texts together, log p(x, text). Without one there is no site.

    Args:
        priors: over the codes, by site, the coarsest first.
        text: ``(batch, text_length)`` int64; None: to be drawn.

    Returns:
        the text that the priors are to be given.
    """
    prior = _with_text(priors)
    return text if prior is None else pyro.sample("text", prior.text(), obs=text)


def _with_text(priors: nn.ModuleDict) -> TransformerPrior | None:
    """The first prior that is one over texts, too."""
    found = (prior for prior in priors.values() if isinstance(prior, TransformerPrior))
    return next((prior for prior in found if prior.text_length is not None), None)
