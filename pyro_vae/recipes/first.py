"""A pair that is trained first, and whose weights start the main one."""

from __future__ import annotations

import logging

from jsonargparse import Namespace
from torch import nn

from pyro_vae.checks import check_data
from pyro_vae.data import Data
from pyro_vae.errors import InputError
from pyro_vae.inference.weights import copy_common, named_weights
from pyro_vae.program import as_programs
from pyro_vae.recipes.experiment import Experiment, build

logger = logging.getLogger(__name__)


def first_config(config: Namespace) -> Namespace:
    """The configuration of the pair to train first: its own sections, with the main one's data and seed."""
    own = config.first.clone()
    own.update(Namespace(data=config.data, seed=config.seed))
    return own


def check_both(config: Namespace, main: Experiment, data: Data) -> None:
    """Check, before the first pair is trained, that the main one can follow.

    Raises:
        InputError: if the main pair refuses the data, or shares no weight with the first one.
    """
    first = build(first_config(config), data.train.shape, data.train.mean())
    check_data(*as_programs(main.model, main.guide), data.train)
    ours, theirs = (named_weights(pair.model, pair.guide) for pair in (main, first))
    if not any(name in ours and ours[name].shape == value.shape for name, value in theirs.items()):
        raise InputError(
            "first: no weight of its model and guide has the name and shape of one of the main ones "
            f"(first has: {', '.join(list(theirs)[:3])}, …; main: {', '.join(list(ours)[:3])}, …)"
        )


def start_from(main: Experiment, model: nn.Module, guide: nn.Module) -> None:
    """Copy the weights of the pair trained first into those of the main one with the same names and shapes."""
    ours, theirs = named_weights(main.model, main.guide), named_weights(model, guide)
    names = copy_common(ours, theirs)
    logger.info("%d weights start where the first pair's ended: %s", len(names), ", ".join(names))
    others = [name for name in theirs if name in ours and name not in names]
    if others:
        logger.warning("not started from the first pair's, which have other shapes: %s", ", ".join(others))
