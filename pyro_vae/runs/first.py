"""The pair of a configuration's section ``first``, which is trained before the main one."""

from __future__ import annotations

from jsonargparse import Namespace

from pyro_vae.data import Data
from pyro_vae.errors import InputError
from pyro_vae.programs.checks import check_data
from pyro_vae.programs.program import as_programs
from pyro_vae.runs.config import Experiment, build, data_facts
from pyro_vae.training.checkpoint import named_weights


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
    first = build(first_config(config), **data_facts(data))
    check_data(*as_programs(main.model, main.guide), data.train)
    ours, theirs = (named_weights(pair.model, pair.guide) for pair in (main, first))
    if not any(name in ours and ours[name].shape == value.shape for name, value in theirs.items()):
        raise InputError(
            "first: no weight of its model and guide has the name and shape of one of the main ones "
            f"(first has: {', '.join(list(theirs)[:3])}, …; main: {', '.join(list(ours)[:3])}, …)"
        )
