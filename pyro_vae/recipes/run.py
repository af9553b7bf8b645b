"""The run directory: what training leaves, and how it is read again."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from torch import nn

from pyro_vae.data import Data, Sound, Tokenizer, with_text
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_json
from pyro_vae.inference import FitResult, fit
from pyro_vae.inference.checkpoint import CHECKPOINT, read_metrics
from pyro_vae.inference.weights import load_weights, save_weights
from pyro_vae.program import as_programs
from pyro_vae.recipes.catalogue import read_yaml
from pyro_vae.recipes.directory import CONFIG, WEIGHTS, nothing_left_if_refused, write_summary
from pyro_vae.recipes.experiment import (
    build,
    experiment_parser,
    foreign_class_paths,
    load_configured_data,
    parse_config,
)
from pyro_vae.recipes.first import check_both, first_config, start_from
from pyro_vae.recipes.functions import check_apart
from pyro_vae.recipes.learned_priors import PRIORS, put_learned_priors
from pyro_vae.recipes.sections import is_first_process, write_config
from pyro_vae.recipes.texts import TOKENIZER

FIRST = "first"  # the run of the pair that is trained before the main one
logger = logging.getLogger(__name__)


class Run:
    """A run directory.

    ``config.yaml`` (everything needed to rebuild), ``model.safetensors``, ``metrics.jsonl``, ``checkpoints/``,
    ``figures/``, ``summary.json``; ``first/``, a run of its own, if another pair was trained first; ``priors/``, if
    priors over its codes were learned (:mod:`pyro_vae.recipes.second_stage`); ``ranker/``, if one was
    (:mod:`pyro_vae.recipes.ranker`). Files are replaced whole, so that a kill leaves the last good state.
    ``data_shape``, ``sound`` (how x is played, if the data are sound) and ``classes`` (the names of labels, if they
    have names) are known without the data.

    Args:
        path: the directory.
        trust: allow class paths outside ``pyro_vae`` in its configuration, whose code is then imported and run.

    Raises:
        InputError: if there is no run, or its configuration names foreign classes and is not trusted.
        CorruptFileError: if the configuration is damaged.
    """

    def __init__(self, path: str | Path, *, trust: bool = False) -> None:
        self.path, self.trust = Path(path), trust
        file = self.path / CONFIG
        if not file.is_file():
            raise InputError(f"{self.path} is not a run directory: it has no {CONFIG}")
        raw = read_yaml(file)
        try:
            self.data_shape = tuple(int(n) for n in raw.pop("data_shape"))
            self.recipe = str(raw.pop("recipe"))
            sound = raw.pop("sound", None)
            self.sound = None if sound is None else Sound(**sound)
            classes = raw.pop("classes", None)
            self.classes = None if classes is None else tuple(map(str, classes))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFileError(
                f"{file} lacks a usable 'data_shape' or 'recipe', or has a damaged 'sound' or 'classes'"
            ) from error
        raw.pop("version", None)
        foreign = foreign_class_paths(raw)
        if foreign and not trust:
            raise InputError(
                f"{file} names code outside pyro_vae ({', '.join(foreign)[:200]}), which loading would run. If you "
                "trust it, say so: trust=True in Python, --trust on the command line"
            )
        if foreign and "" not in sys.path:
            sys.path.insert(0, "")  # classes beside the working directory, as for python -m
        self.config: Namespace = parse_config(experiment_parser(raw), raw, str(file))

    @classmethod
    def create(cls, path: str | Path, config: Namespace, recipe: str, data: Data) -> Run:
        """Start a run directory: the initial weights first, so that one with a configuration can always be loaded.

        Among data-parallel processes only the first one writes.

        Raises:
            InputError: if the directory holds a run already, or cannot be written.
        """
        if not is_first_process():
            run = cls.__new__(cls)
            run.path, run.data_shape, run.recipe, run.config = Path(path), data.train.shape, recipe, config
            run.trust = True
            run.sound, run.classes = data.sound, data.classes
            return run
        file = Path(path) / CONFIG
        started = any((Path(path) / part / CHECKPOINT).exists() for part in ("", FIRST))
        if started or (file.exists() and (Path(path) / WEIGHTS).exists()):
            raise InputError(f"{path} holds a run already: resume it (pyro-vae resume {path}) or choose another --out")
        parts = build(config, data.train.shape, data.train.mean())
        check_apart(Path(path), parts.model, parts.guide)
        save_weights(Path(path) / WEIGHTS, parts.model, parts.guide)
        head: dict[str, Any] = {"recipe": recipe, "data_shape": list(data.train.shape)}
        if data.sound is not None:
            head["sound"] = asdict(data.sound)
        if data.classes is not None:
            head["classes"] = list(data.classes)
        write_config(file, experiment_parser(config.as_dict()), config, head)
        return cls(path, trust=True)  # the user has just configured it himself

    def data(self) -> Data:
        """The data that the run was configured with; with ``text``, the captions' tokens, if a prior has learned it."""
        data = load_configured_data(self.config)
        return with_text(data, self.tokenizer()) if (self.path / PRIORS / TOKENIZER).is_file() else data

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of its captions.

        Raises:
            InputError: if no prior over texts was learned for it.
            CorruptFileError: if the file is damaged.
        """
        file = self.path / PRIORS / TOKENIZER
        if not file.is_file():
            raise InputError(
                f"{self.path} knows no texts: learn a prior over texts and codes first, of data with captions "
                f"(pyro-vae train-prior dalle --on {self.path})"
            )
        return Tokenizer.load(file)

    def train(self, data: Data, *, resume: bool = False, progress: bool = True) -> FitResult:
        """Train, or go on training, and write the summary.

        If the configuration has a section ``first``, that pair is trained before, in the directory ``first``.
        An experiment that is refused before its first step leaves no run behind.
        """
        written = [] if resume else [self.path / name for name in (CONFIG, WEIGHTS)]
        with nothing_left_if_refused([self.path, self.path / FIRST], written):
            parts = build(self.config, self.data_shape, data.train.mean())
            check_apart(self.path, parts.model, parts.guide)
            if "first" in self.config and not (self.path / CHECKPOINT).exists():
                check_both(self.config, parts, data)
                before = self._train_first(data, resume, progress)
                start_from(parts, before.model, before.guide)
            result = fit(
                parts.model,
                parts.guide,
                data,
                objective=parts.objective,
                seed=self.config.seed,
                out=self.path,
                resume=resume,
                progress=progress,
                **parts.fit_options,
            )
        write_summary(self.path, result, recipe=self.recipe)
        return result

    def _train_first(self, data: Data, resume: bool, progress: bool) -> FitResult:
        """Train, or go on training, the pair of the section ``first`` as a run of its own."""
        path = self.path / FIRST
        logger.info("first: %s", path)
        if resume and (path / CONFIG).is_file():
            return Run(path, trust=True).train(data, resume=True, progress=progress)
        recipe = f"{self.recipe}, {FIRST}"
        return Run.create(path, first_config(self.config), recipe, data).train(data, progress=progress)

    def programs(self) -> tuple[nn.Module, nn.Module]:
        """Model and guide with the saved weights and the priors learned for them, in evaluation mode.

        Raises:
            InputError: if a prior was trained on another codebook.
            CorruptFileError: if weights are missing or damaged.
        """
        model, guide = self.stage_one()
        put_learned_priors(self.path, model, self.trust)
        return model, guide

    def stage_one(self) -> tuple[nn.Module, nn.Module]:
        """Model and guide with the saved weights, as they were before priors were learned."""
        try:
            parts = build(self.config, self.data_shape)
        except InputError as error:
            raise InputError(f"{self.path / CONFIG}: {error}") from error
        check_apart(self.path, parts.model, parts.guide)
        load_weights(self.path / WEIGHTS, parts.model, parts.guide)
        return parts.model.eval(), parts.guide.eval()

    def records(self) -> list[dict[str, Any]]:
        """The metrics log."""
        return read_metrics(self.path)

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file of the directory, atomically."""
        write_json(self.path / name, value)


def load(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    guide: nn.Module | None = None,
    trust: bool = False,
) -> tuple[nn.Module, nn.Module]:
    """Model and guide of a run directory, ready to use.

    Args:
        path: the directory.
        model, guide: programs of one's own to load the weights into, modules or plain functions, for a run that was
            trained from Python (``fit(..., out=path)``) and so has no configuration.
        trust: allow class paths outside ``pyro_vae`` in the configuration; their code is run.

    Returns:
        the pair, in evaluation mode.

    Raises:
        InputError: see :class:`Run`; or if only one of model and guide is given.
        CorruptFileError: if a file is damaged.
    """
    if model is None and guide is None:
        return Run(path, trust=trust).programs()
    if model is None or guide is None:
        raise InputError("load needs both model and guide, or neither")
    if not isinstance(model, nn.Module) or not isinstance(guide, nn.Module):
        model, guide = as_programs(model, guide)
    load_weights(Path(path) / WEIGHTS, model, guide)
    return model.eval(), guide.eval()
