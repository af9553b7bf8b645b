"""The run directory: what training leaves, and how it is read again."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from torch import nn

from pyro_vae.data import Actions, Classes, Data, Pictures, Sound, Tokenizer, Tokens, dataset_names, with_text
from pyro_vae.data.actions import actions_of
from pyro_vae.data.picture_kinds import picture_facts, pictures_of
from pyro_vae.data.split import split_digest
from pyro_vae.data.token_file import checked_facts, read_tokens, token_facts, write_tokens
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import check_no_links, locked, read_yaml, remove_leftovers, user_path
from pyro_vae.programs.inside import connect
from pyro_vae.programs.program import as_programs
from pyro_vae.runs.codes import TOKENIZER
from pyro_vae.runs.config import (
    Experiment,
    build,
    check_apart,
    context_shapes,
    data_facts,
    experiment_parser,
    load_configured_data,
    parse_config,
    shape_facts,
)
from pyro_vae.runs.directory import (
    CONFIG,
    SUMMARY,
    TOKENS,
    WEIGHTS,
    check_free,
    nothing_left_if_refused,
    write_summary,
)
from pyro_vae.runs.first import check_both, first_config
from pyro_vae.runs.fixed_model import MODEL_OF, take_model
from pyro_vae.runs.known import built_within, foreign_names
from pyro_vae.runs.learned_priors import PRIORS, prior_folders, put_learned_priors
from pyro_vae.runs.sections import HARMLESS, experiment_entries, is_first_process, write_config
from pyro_vae.runtime import check_seed
from pyro_vae.training import FitResult, fit, refit_guide
from pyro_vae.training.checkpoint import (
    CHECKPOINT,
    check_directory,
    copy_common,
    load_checkpoint,
    load_weights,
    named_weights,
    save_weights,
)
from pyro_vae.training.experiment import check_same
from pyro_vae.training.metrics import read_metrics
from pyro_vae.training.state import goes_on

logger = logging.getLogger(__name__)


def start_from(main: Experiment, model: nn.Module, guide: nn.Module) -> None:
    """Copy the weights of the pair trained first into those of the main one with the same names and shapes."""
    ours, theirs = named_weights(main.model, main.guide), named_weights(model, guide)
    names = copy_common(ours, theirs)
    logger.info("%d weights start where the first pair's ended: %s", len(names), ", ".join(names))
    others = [name for name in theirs if name in ours and name not in names]
    if others:
        logger.warning("not started from the first pair's, which have other shapes: %s", ", ".join(others))


# what config.yaml says beside the configuration
HEAD = (
    *("recipe", "data_shape", "context_shapes", "sound", "classes", "actions", "tokens", "pictures", "data_digest"),
    MODEL_OF,
)
MOST_AXIS = 2**31  # of a datum
FIRST = "first"  # the run of the pair that is trained before the main one


class Run:
    """A run directory.

    ``config.yaml`` (everything needed to rebuild), ``model.safetensors``, ``metrics.jsonl``, ``checkpoints/``,
    ``figures/``, ``summary.json``; ``first/``, a run of its own, if another pair was trained first; ``priors/``, if
    priors over its codes or latents were learned (:mod:`pyro_vae.runs.latent_stage`); ``ranker/``, if one was
    (:mod:`pyro_vae.text_to_image.ranker`). Files are replaced whole, so that a kill leaves the last good state.
    ``data_shape``, ``context_shapes`` (of what the data have beside x, by name), ``sound`` (how x is played, if the
    data are sound), ``classes`` (the names of labels, if they have names), ``actions``
    (:class:`~pyro_vae.data.Actions`, if the data have some), ``tokens`` (what x stand for, if they are tokens:
    ``tokens.json``), ``pictures`` (how x are looked at, if the data say it) and ``model_of`` (of a refitted guide:
    whose model it is of) are known without the data.

    Args:
        path: the directory.
        trust: allow class paths outside ``pyro_vae`` in its configuration, whose code is then imported and run.

    Raises:
        InputError: if there is no run, or its configuration names foreign classes and is not trusted.
        CorruptFileError: if the configuration is damaged.
    """

    def __init__(self, path: str | Path, *, trust: bool = False) -> None:
        self.path, self.trust, self._changed = Path(path), trust, False
        file = self.path / CONFIG
        if not file.is_file():
            raise InputError(f"{self.path} is not a run directory: it has no {CONFIG}")
        raw = read_yaml(file)
        try:
            self.data_shape = tuple(raw.pop("data_shape"))
            self.context_shapes = {str(k): tuple(v) for k, v in (raw.pop("context_shapes", None) or {}).items()}
            self.recipe = str(raw.pop("recipe"))
            sound = raw.pop("sound", None)
            self.sound = None if sound is None else Sound(**sound)
            self.data_digest = {str(k): str(v) for k, v in (raw.pop("data_digest", None) or {}).items()}
            classes = raw.pop("classes", None)
            self.classes = None if classes is None else tuple(map(str, classes))
            actions = raw.pop("actions", None)
            self.actions = None if actions is None else actions_of(actions)
            tokens = raw.pop("tokens", None)
            self.token_facts = None if tokens is None else checked_facts(tokens)
            pictures = raw.pop("pictures", None)
            self.pictures = None if pictures is None else pictures_of(pictures)
            model_of = raw.pop(MODEL_OF, None)
            self.model_of = None if model_of is None else {key: str(model_of[key]) for key in ("run", "weights")}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptFileError(
                f"{file} lacks a usable 'data_shape' or 'recipe', or has a damaged 'context_shapes', 'sound', "
                f"'classes', 'actions', 'tokens', 'pictures', 'data_digest' or '{MODEL_OF}' ({error})"
            ) from error
        for name, shape in {"data_shape": self.data_shape, **shape_facts(self.context_shapes)}.items():
            if (not shape and name == "data_shape") or not all(type(n) is int and 1 <= n <= MOST_AXIS for n in shape):
                raise CorruptFileError(f"{file}: {name} {str(list(shape))[:200]} is no shape of a datum")
        raw.pop("version", None)
        if trust and foreign_names(raw) and "" not in sys.path:
            sys.path.insert(0, "")  # classes beside the working directory, as for python -m
        self.config: Namespace = parse_config(experiment_parser(raw), raw, str(file), trust=trust)

    @classmethod
    def create(
        cls, path: str | Path, config: Namespace, recipe: str, data: Data, *, model_of: Run | None = None
    ) -> Run:
        """Start a run directory: the initial weights first, so that one with a configuration can always be loaded.

        Among data-parallel processes only the first one writes. With ``model_of``, the model is that run's, with its
        weights, and stays so: training fits a guide to it (:mod:`pyro_vae.runs.fixed_model`).

        Raises:
            InputError: if the directory holds a run already, or something else that training would replace, or cannot
                be written.
        """
        if not is_first_process(config):
            run = cls.__new__(cls)
            run.take(Path(path), config, recipe, data)
            return run
        sound, classes, tokens = data.extra(Sound), data.extra(Classes), data.extra(Tokens)
        actions, pictures = data.extra(Actions), data.extra(Pictures)
        path = Path(path)
        check_seed(config.seed)
        check_free(path)
        config = _at_absolute_paths(config)
        parts = build(config, **data_facts(data))
        check_apart(path, parts.model, parts.guide)
        head: dict[str, Any] = {"recipe": recipe, "data_shape": list(data.train.shape)}
        if context := context_shapes(data):
            head["context_shapes"] = {name: list(shape) for name, shape in context.items()}
        if sound is not None:
            head["sound"] = asdict(sound)
        if classes is not None:
            head["classes"] = list(classes.names)
        if actions is not None:
            head["actions"] = list(actions.names)
        if tokens is not None:
            head["tokens"] = token_facts(tokens)
        if pictures is not None:
            head["pictures"] = picture_facts(pictures)
        head["data_digest"] = data_digest(data)
        if model_of is not None:
            head[MODEL_OF] = take_model(parts.model, model_of.path, *model_of.stage_one())
        with locked(path):
            check_free(path)  # once more, now that nobody else is at work in it
            save_weights(path / WEIGHTS, parts.model, parts.guide, trained=False)
            if tokens is not None:
                write_tokens(path / TOKENS, tokens)
            write_config(path / CONFIG, experiment_parser(config.as_dict()), config, head)
        return cls(path, trust=True)  # the user has just configured it himself

    def take(self, path: Path, config: Namespace, recipe: str, data: Data) -> None:
        """Be what a configuration and its data say, without a directory's files."""
        self.path, self.trust, self._changed, self.config, self.recipe = path, True, False, config, recipe
        classes, tokens = data.extra(Classes), data.extra(Tokens)
        self.data_shape, self.context_shapes = data.train.shape, context_shapes(data)
        self.sound, self.actions, self.pictures = data.extra(Sound), data.extra(Actions), data.extra(Pictures)
        self.classes = None if classes is None else classes.names
        self.token_facts = None if tokens is None else token_facts(tokens)
        self.data_digest, self.model_of = {}, None

    def data(self) -> Data:
        """The data that the run was configured with; with ``text``, the captions' tokens, if a prior has learned it.

        If they are not those that the run was begun with, the log says which parts of them.

        Raises:
            InputError: if they are not there any more, or their tokens have other meanings now.
            CorruptFileError: if the file of its tokens is damaged.
        """
        try:
            data = load_configured_data(self.config)
        except InputError as error:
            raise type(error)(
                f"the data of {self.path}: {error}. If they are elsewhere now, say so in its {CONFIG} (data.name)"
            ) from error
        self._check_same_meaning(data)
        changed = self.changed_parts(data)
        if changed:
            logger.warning(
                "%s: the data are not those that the run was begun with (%s): %s has changed since, and may be split "
                "otherwise, so that what is measured may have been trained on",
                self.path,
                ", ".join(changed),
                self.config.data.name,
            )
        return with_text(data, self.tokenizer()) if (self.path / PRIORS / TOKENIZER).is_file() else data

    @property
    def tokens(self) -> Tokens | None:
        """What the integers of x stand for, from a file of the run; None, if x are no tokens.

        Raises:
            InputError: if the file is not there.
            CorruptFileError: if it is damaged, or not the one that the run was begun with.
        """
        if self.token_facts is None:
            return None
        tokens = read_tokens(self.path / TOKENS, self.token_facts)
        if (tokens.length,) != self.data_shape:
            raise CorruptFileError(
                f"{self.path / TOKENS}: sequences of {tokens.length:,} tokens, but one x of the run has shape "
                f"{self.data_shape}: put back the files that the run was begun with, from a copy"
            )
        return tokens

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes that classes are handed by name: ``data_shape``, and of what is beside x, ``image_shape``."""
        return shape_facts(self.context_shapes) | {"data_shape": self.data_shape}

    def _facts(self) -> dict[str, Any]:
        """What is known without the data of what classes are handed by name."""
        num_tokens = (self.token_facts or {}).get("num_tokens")
        num_actions = None if self.actions is None else len(self.actions.names)
        facts = {"data_shape": self.data_shape, "context_shapes": self.context_shapes}
        return {**facts, "num_tokens": num_tokens, "num_actions": num_actions}

    def _described(self) -> dict[str, Any]:
        """What the run's experiment depends on, beside its configuration."""
        tokens = {} if self.token_facts is None else {"tokens": self.token_facts["digest"]}
        context = {name: list(shape) for name, shape in shape_facts(self.context_shapes).items()}
        return {"data_shape": list(self.data_shape), **context, **tokens}

    def _check_same_meaning(self, data: Data) -> None:
        """Check that tokens and actions stand for what they stood for when the run was begun."""
        if data.extra(Actions) != self.actions:
            raise InputError(
                f"{self.path}: the actions of {data.name} are not those that the run was begun with, "
                f"{'none' if self.actions is None else ', '.join(self.actions.names)}: put the data back as they were"
            )
        now = data.extra(Tokens)
        if (None if now is None else token_facts(now)) != self.token_facts:
            raise InputError(
                f"{self.path}: the tokens of {data.name} do not stand for what they stood for when the run was begun: "
                "its data, or how they are read, have changed. Put the data back as they were; other texts are "
                f"read with the run's own {TOKENS} (pyro-vae score {self.path} texts.txt)"
            )

    def changed_parts(self, data: Data) -> list[str]:
        """The parts of the data that are not as they were when the run was begun; none, if that is not known."""
        now = data_digest(data) if self.data_digest else {}
        return [part for part in now | self.data_digest if now.get(part) != self.data_digest.get(part)]

    def file(self, name: str) -> Path:
        """A path in the run directory, ``"figures/samples.png"``, that may be written.

        Raises:
            InputError: if a link inside the directory leads there.
        """
        check_no_links(self.path, [name])
        return self.path / name

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
                f"(pyro-vae train-prior {self.path} dalle)"
            )
        return Tokenizer.load(file)

    def train(self, data: Data, *, resume: bool = False, progress: bool = True) -> FitResult:
        """Train, or go on training, and write the summary.

        If the configuration has a section ``first``, that pair is trained before, in the directory ``first``.
        An experiment that is refused before its first step leaves no run behind.

        Raises:
            InputError: as :func:`~pyro_vae.training.fit`; if the run is to be trained further and has priors.
        """
        written = [] if resume else [self.path / name for name in (CONFIG, WEIGHTS, TOKENS)]
        alone = locked(self.path) if is_first_process(self.config) else nullcontext()
        with alone, nothing_left_if_refused([self.path, self.path / FIRST], written, self.config):
            check_directory(self.path, resume=True)
            if is_first_process(self.config):
                remove_leftovers(self.path / name for name in (CONFIG, SUMMARY))
            self._check_same_meaning(data)
            with built_within(self.path / WEIGHTS, self.trust):
                parts = build(self.config, **self._facts(), data_mean=data.train.mean())
            check_apart(self.path, parts.model, parts.guide)
            of_fixed = {} if self.model_of is None else {MODEL_OF: self.model_of["weights"]}
            described = experiment_entries(self.config, **self._described(), **of_fixed)
            if resume:
                self._check_goes_on(described)
            if "first" in self.config and not (self.path / CHECKPOINT).exists():
                check_both(self.config, parts, data)
                before = self._train_first(data, resume, progress)
                start_from(parts, before.model, before.guide)
            train = fit
            if self.model_of is not None:
                load_weights(self.path / WEIGHTS, parts.model, parts.guide, initial=True)
                train = refit_guide
            result = train(
                model=parts.model,
                guide=parts.guide,
                data=data,
                objective=parts.objective,
                seed=self.config.seed,
                out=self.path,
                resume=resume,
                described=described,
                progress=progress,
                **parts.fit_options,
            )
            write_summary(self.path, result, self.config, recipe=self.recipe)
        return result

    def change(self, **sections: Mapping[str, Any]) -> None:
        """Change what may change while training is gone on with; it is written when training goes on.

        Args:
            sections: values by section, ``fit={"epochs": 300}``.

        Raises:
            InputError: for any other key.
        """
        for section, values in sections.items():
            for key, value in values.items():
                if f"{section}.{key}" not in HARMLESS:
                    raise InputError(f"{section}.{key} cannot change while training is gone on with")
                self.config[section][key] = value
        self._changed = True

    def _check_goes_on(self, described: dict[str, str]) -> None:
        """Check that what was begun is what is configured now; then write what has changed, and is harmless."""
        saved = load_checkpoint(self.path) or {}
        progress = saved.get("progress", {})
        further = goes_on(progress, self.config.fit.epochs)
        if saved.get("experiment") is not None:  # older checkpoints have none
            begun = {name: value for name, value in saved["experiment"].items() if name.startswith(CONFIG)}
            check_same(begun, described, str(self.path / CHECKPOINT))
        if further and prior_folders(self.path):
            raise InputError(
                f"{self.path / PRIORS}: priors were learned for the weights as they are; to train these "
                "further, work on a copy of the run without that directory"
            )
        if self._changed and is_first_process(self.config):
            raw = read_yaml(self.path / CONFIG)
            head = {name: raw[name] for name in HEAD if name in raw}
            write_config(self.path / CONFIG, experiment_parser(self.config.as_dict()), self.config, head)
        if further and is_first_process(self.config):
            (self.path / SUMMARY).unlink(missing_ok=True)  # which says that training has come to its end

    def _train_first(self, data: Data, resume: bool, progress: bool) -> FitResult:
        """Train, or go on training, the pair of the section ``first`` as a run of its own."""
        path = self.file(FIRST)
        logger.info("first: %s", path)
        config = first_config(self.config)
        if resume and (path / CONFIG).is_file():
            run = Run(path, trust=self.trust)
            check_same(
                experiment_entries(run.config),
                experiment_entries(config),
                f"{path / CONFIG}, of the pair trained before,",
            )
            return run.train(data, resume=True, progress=progress)
        return Run.create(path, config, f"{self.recipe}, {FIRST}", data).train(data, progress=progress)

    def programs(self) -> tuple[nn.Module, nn.Module]:
        """Model and guide with the saved weights and the priors learned for them, in evaluation mode.

        Raises:
            InputError: if a prior was trained on another codebook, or on another guide's draws.
            CorruptFileError: if weights are missing or damaged.
        """
        model, guide = self.stage_one()
        model = put_learned_priors(self.path, model, self.shapes, self.trust)
        connect(model, guide)
        return model, guide

    def stage_one(self) -> tuple[nn.Module, nn.Module]:
        """Model and guide with the saved weights, as they were before priors were learned."""
        try:
            with built_within(self.path / WEIGHTS, self.trust):
                parts = build(self.config, **self._facts())
        except InputError as error:
            raise InputError(f"{self.path / CONFIG}: {error}") from error
        check_apart(self.path, parts.model, parts.guide)
        described = experiment_entries(self.config, **self._described())
        load_weights(self.path / WEIGHTS, parts.model, parts.guide, described)
        return parts.model.eval(), parts.guide.eval()

    def records(self) -> list[dict[str, Any]]:
        """The metrics log."""
        return read_metrics(self.path)


def data_digest(data: Data) -> dict[str, str]:
    """SHA-256 by part of the data (:func:`~pyro_vae.data.split.split_digest`)."""
    return {part: split_digest(split) for part, split in data.splits.items()}


def _at_absolute_paths(config: Namespace) -> Namespace:
    """A configuration in which the paths of data are so that they are found from everywhere."""
    config = config.clone()
    name, root = config.data.name, config.data.root
    if name not in dataset_names() and user_path(name).exists():
        config.data.name = str(user_path(name).resolve())
    if root is not None:
        config.data.root = str(user_path(root).resolve())
    return config


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

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> _ = pyro_vae.fit(model, guide, torch.ones(20, 1, 8, 8), epochs=1, out="runs/ones", progress=False)
        >>> model, guide = pyro_vae.load("runs/ones", model=model, guide=guide)
        >>> model.training
        False
    """
    if model is None and guide is None:
        return Run(path, trust=trust).programs()
    if model is None or guide is None:
        raise InputError("load needs both model and guide, or neither")
    if not isinstance(model, nn.Module) or not isinstance(guide, nn.Module):
        model, guide = as_programs(model, guide)
    load_weights(Path(path) / WEIGHTS, model, guide)
    return model.eval(), guide.eval()
