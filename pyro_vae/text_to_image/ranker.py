"""The ranker of a run: a contrastive model of its images and captions, in the directory ``ranker``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from pyro_vae.data import with_text
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import locked, read_yaml, remove_leftovers
from pyro_vae.guides import EmptyGuide
from pyro_vae.models import ContrastiveModel
from pyro_vae.runs.codes import TOKENIZER, check_tokenizer, saved
from pyro_vae.runs.config import NOT_CONFIGURED
from pyro_vae.runs.directory import CONFIG, SUMMARY, WEIGHTS, check_free, nothing_left_if_refused, write_summary
from pyro_vae.runs.known import built_within
from pyro_vae.runs.learned_priors import PRIORS
from pyro_vae.runs.run import Run
from pyro_vae.runs.sections import (
    REFUSALS,
    experiment_entries,
    instantiate,
    is_first_process,
    parse_stage,
    write_config,
)
from pyro_vae.runtime import private_seed
from pyro_vae.text_to_image.ranking import ContrastiveScorer
from pyro_vae.training import FitResult, fit
from pyro_vae.training.batches import derived_seed
from pyro_vae.training.checkpoint import load_weights

logger = logging.getLogger(__name__)

RANKER = "ranker"
FROM_DATA = {"data_shape", "vocabulary_size", "text_length"}  # of a ranker, which the run tells
SECTIONS = ("ranker", "dropout", "fit", "seed")


def add_ranker_arguments(parser: ArgumentParser) -> None:
    """Give a parser the sections of a ranker's configuration."""
    parser.add_class_arguments(ContrastiveModel, "ranker", skip=FROM_DATA)
    parser.add_argument("--dropout", type=float, default=0.1, help="of merges in the captions, in training")
    parser.add_function_arguments(fit, "fit", skip=NOT_CONFIGURED)
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, data order and noise")


def parse_ranker_config(
    config: Mapping[str, Any], source: str, *, trust: bool = False, defaults: bool = True
) -> Namespace:
    """Check a ranker's configuration and fill in the defaults, or leave them out.

    Raises:
        InputError: names what does not fit.
    """
    if "ranker" not in config:
        raise InputError(f"{source} is not a ranker's recipe: it has no section 'ranker'")
    return parse_stage(config, SECTIONS, add_ranker_arguments, source, trust=trust, defaults=defaults)


def train_ranker(run: Run, config: Namespace | None, *, resume: bool = False, progress: bool = True) -> FitResult:
    """Learn which captions belong to which images of a run's data, with the run's tokenizer.

    Args:
        run: with a prior over texts.
        config: from :func:`parse_ranker_config`; None: go on with the one begun.
        resume: go on with an interrupted one, as it was begun; instead of ``config``.
        progress: show a bar.

    Raises:
        InputError: if the run knows no texts, has a ranker already, or none to go on with.
    """
    folder, vocabulary = run.file(RANKER), run.path / PRIORS / TOKENIZER
    if resume == (config is not None):
        raise InputError("give the ranker's configuration, or resume=True to go on with the one it was begun with")
    tokenizer = run.tokenizer()
    facts = saved(vocabulary, tokenizer)
    begun, done = (folder / CONFIG).is_file(), (folder / SUMMARY).is_file()
    if resume and (done or not begun):
        raise InputError(f"{folder} has no ranker that training was interrupted of")
    if config is not None and begun and is_first_process(config):
        raise InputError(
            f"{folder}: a ranker is {'learned' if done else 'begun'} already; "
            f"{'remove the directory' if done else 'go on with it (--resume), or remove the directory'} to begin anew"
        )
    if config is not None and is_first_process(config):
        check_free(folder)
    if config is None:
        _, config = _read(folder, vocabulary)
    model = _build(run, config, facts)
    data = with_text(run.data(), tokenizer, dropout=config.dropout, seed=config.seed)
    options = dict(vars(instantiate("fit", config, fit, NOT_CONFIGURED, {})))
    alone = locked(folder) if is_first_process(config) else nullcontext()
    with alone, nothing_left_if_refused([folder], [] if resume else [folder / CONFIG], config):
        if is_first_process(config):
            remove_leftovers(folder / name for name in (CONFIG, SUMMARY))
            if not resume:
                _write(folder, config, facts)
        result = fit(
            model,
            EmptyGuide(),
            data,
            seed=config.seed,
            out=folder,
            resume=resume,
            described=experiment_entries(config, **facts),
            progress=progress,
            **options,
        )
        write_summary(folder, result, config)
    return result


def load_ranker(run: Run) -> ContrastiveScorer | None:
    """The scorer by the run's ranker; None if none was trained to its end.

    Raises:
        InputError: if the run's tokenizer is not the one that it was trained with.
        CorruptFileError: if a file is damaged.
    """
    folder = run.path / RANKER
    if not (folder / SUMMARY).is_file():
        return None
    facts, config = _read(folder, run.path / PRIORS / TOKENIZER)
    with built_within(folder / WEIGHTS, run.trust):
        model = _build(run, config, facts)
    load_weights(folder / WEIGHTS, model, EmptyGuide(), experiment_entries(config, **facts))
    return ContrastiveScorer(model.eval(), run.tokenizer())


def _build(run: Run, config: Namespace, facts: dict[str, Any]) -> ContrastiveModel:
    sizes = (run.data_shape, facts["num_words"], facts["text_length"])
    try:
        with private_seed(derived_seed(config.seed, "weights")):
            return ContrastiveModel(*sizes, **config.ranker.as_dict())
    except InputError:
        raise
    except REFUSALS as error:
        raise InputError(f"ranker: {error}") from error


def _read(folder: Path, vocabulary: Path) -> tuple[dict[str, Any], Namespace]:
    """The facts of the tokenizer, and the configuration."""
    raw = read_yaml(folder / CONFIG)
    try:
        raw.pop("version")
        facts = raw.pop("tokenizer")
        check_tokenizer(vocabulary, facts, folder)
    except (KeyError, TypeError) as error:
        raise CorruptFileError(f"{folder / CONFIG} lacks 'version' or 'tokenizer' ({error})") from error
    return facts, parse_ranker_config(raw, str(folder / CONFIG))


def _write(folder: Path, config: Namespace, facts: dict[str, Any]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    add_ranker_arguments(parser)
    write_config(folder / CONFIG, parser, config, {"tokenizer": facts})
