"""Terms of a loss that are no part of a density."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor

PENALTY = "penalty"  # marks a site in its ``infer``


def penalty(name: str, value: Tensor) -> None:
    r"""Add a term to what is minimized, from within a guide and its data plate.

    Objectives add it to the negative bound, and so does plain ``pyro.infer.SVI``: a guide's factor counts as log q.
    Evaluation leaves it out: log-likelihoods and bounds are of the model and the guide alone. A ``pyro.factor`` in a
    guide, without this mark, is a part of log q for both.

    Args:
        name: of the site.
        value: ``(..., batch)``, nats; a commitment term, say.
    """
    pyro.sample(name, dist.Unit(value, has_rsample=True), obs=value.new_empty((*value.shape, 0)), infer=_marked())


def _marked() -> dict[str, Any]:
    return {"is_auxiliary": True, PENALTY: True}


def is_penalty(site: dict[str, Any]) -> bool:
    """Whether a trace's site is a penalty."""
    return bool(site["infer"].get(PENALTY))
