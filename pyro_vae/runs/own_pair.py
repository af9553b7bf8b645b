"""A pair of one's own that was trained elsewhere, as a YAML file names it: to be measured, without a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pyro_vae.data import Data, Tokens
from pyro_vae.errors import InputError
from pyro_vae.runs.config import build, data_facts, experiment_parser, load_configured_data, parse_config
from pyro_vae.runs.run import Run
from pyro_vae.training.checkpoint import named_weights


class OwnPair(Run):
    """Data, model and guide of a configuration, with the weights that the programs' own code gives them.

    There is no directory, and nothing is written.

    Args:
        path: the YAML file.
        config: what it says: ``data``, and ``model`` and ``guide``, or ``pair``.
        trust: allow class paths and functions outside ``pyro_vae``, whose code is then imported and run.

    Raises:
        InputError: for what the sections do not fit, foreign code without trust, and data that are not there.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], *, trust: bool = False) -> None:
        if "first" in config:
            raise InputError(f"{path}: section 'first' is of training; leave it out where a pair is measured")
        parsed = parse_config(experiment_parser(config), config, str(path), trust=trust)
        self._data = load_configured_data(parsed)
        self.take(path, parsed, str(path), self._data)
        self.trust = trust

    def data(self) -> Data:
        """The data that the file names."""
        return self._data

    @property
    def tokens(self) -> Tokens | None:
        """What the integers of x stand for; None, if x are no tokens."""
        return self._data.extra(Tokens)

    def programs(self) -> tuple[nn.Module, nn.Module]:
        """Model and guide as their code makes them, in evaluation mode.

        Raises:
            InputError: if weights are drawn at random when they are made: such a pair is not trained.
        """
        parts = build(self.config, **data_facts(self._data))
        other = self.config.clone()
        other.seed = self.config.seed + 1
        again = build(other, **data_facts(self._data))
        weights, others = (named_weights(each.model, each.guide) for each in (parts, again))
        drawn = [name for name, value in weights.items() if name not in others or not value.equal(others[name])]
        if drawn:
            raise InputError(
                f"{self.path}: {len(drawn)} of {len(weights)} weights ('{drawn[0]}', …) are drawn at random when the "
                "pair is built, so that it is not trained: load its weights in the file of its programs, where its "
                f"networks are made; or train it first (pyro-vae train {self.path} --out DIR)"
            )
        return parts.model.eval(), parts.guide.eval()
