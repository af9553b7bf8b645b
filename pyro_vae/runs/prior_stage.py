"""Train priors over the codes of a finished run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path

import torch
from jsonargparse import Namespace
from torch import Tensor, nn

from pyro_vae.data import Data, Split, Tokenizer, with_text
from pyro_vae.errors import InputError, unknown
from pyro_vae.files import check_no_links, digest_of, locked, remove_leftovers
from pyro_vae.guides import EmptyGuide
from pyro_vae.models.codes import CodeModel, TextCodeModel
from pyro_vae.priors import Prior
from pyro_vae.programs.context import X, accepted_arguments
from pyro_vae.runs.codes import TOKENIZER, Codes, check_tokenizer, make_tokenizer, run_codes, saved, sizes_of
from pyro_vae.runs.config import NOT_CONFIGURED
from pyro_vae.runs.directory import CONFIG, SUMMARY, WEIGHTS, check_free, nothing_left_if_refused, write_summary
from pyro_vae.runs.learned_priors import PRIORS, build_prior, code_priors, read_prior_config, write_prior_config
from pyro_vae.runs.run import Run, data_digest
from pyro_vae.runs.sections import experiment_entries, instantiate, is_first_process
from pyro_vae.training import FitResult, fit

logger = logging.getLogger(__name__)

CODES = "codes.safetensors"


def train_priors(
    run: Run,
    config: Namespace | None,
    recipe: str = "",
    *,
    site: str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, FitResult]:
    """Learn priors over a run's codes, the coarsest site first, each in ``priors/<site>`` of the run's directory.

    The codes of the data are extracted once and kept: the most probable ones, or as many draws from the guide as the
    configuration says. What is there of the run is only read; a prior takes part in the run from the moment its
    training has ended.

    Args:
        run: a trained run whose model has ``priors``.
        config: from :func:`~pyro_vae.runs.learned_priors.parse_prior_config`; None: go on with those begun.
        recipe: its name, for the record.
        site: train the prior of this site only; all that have none yet, if not given.
        resume: go on with interrupted ones, as they were begun; instead of ``config``.
        progress: show bars.

    Returns:
        what training returned, by site.

    Raises:
        InputError: if the model has no codes, an unknown site, a prior that is there already, or nothing to do; for
            texts, if the data have no captions, or model or prior take none; if both or none of config and resume
            are given.
    """
    if resume == (config is not None):
        raise InputError("give the prior's configuration, or resume=True to go on with the one it was begun with")
    check_ended(run)
    check_no_links(run.path, [f"{PRIORS}/{CODES}", f"{PRIORS}/{TOKENIZER}"])
    model, guide = run.stage_one()
    priors = code_priors(model)
    sites = sites_to_train(run.path / PRIORS, list(priors), site, config)
    if config is not None and config.text.vocabulary_size is not None:
        _check_takes_text(model)
    with locked(run.path / PRIORS) if is_first_process(config) else nullcontext():
        if is_first_process(config):
            names = (CODES, TOKENIZER, *(f"{name}/{file}" for name in priors for file in (CONFIG, SUMMARY)))
            remove_leftovers(run.path / PRIORS / name for name in names)
        data, trained = run.data(), digest_of(run.path / WEIGHTS)
        made_of = {"trained": trained, **{f"data/{part}": each for part, each in data_digest(data).items()}}
        codes = cache(
            partial(run_codes, run.path / PRIORS / CODES, made_of, model, guide, data, list(priors), progress)
        )
        results = {}
        for name in sites:
            folder = run.file(f"{PRIORS}/{name}")
            logger.info("prior of '%s': %s", name, folder)
            results[name] = _train(
                folder, config, recipe, priors[name], trained, name, codes, data, run.shapes, progress, run.trust
            )
    uniform = [name for name in priors if not (run.path / PRIORS / name / CONFIG).is_file()]
    if uniform:
        logger.warning("%s: no prior is learned of %s yet (pyro-vae train-prior)", run.path, ", ".join(uniform))
    return results


def check_ended(run: Run) -> None:
    """Check that a run has been trained to its end.

    Raises:
        InputError: if it has not.
    """
    if not (run.path / SUMMARY).is_file():
        raise InputError(f"{run.path} is not trained to its end: pyro-vae resume {run.path}, then train its priors")


def sites_to_train(folder: Path, known: list[str], site: str | None, config: Namespace | None) -> list[str]:
    """Which priors to train, of those that are not there yet, or of those that were begun.

    Args:
        folder: of the run's priors.
        known: sites that can have one.
        site: the one that is wanted; all, if None.
        config: None: to go on.

    Raises:
        InputError: for an unknown site, and if there is nothing to do.
    """
    if site is not None and site not in known:
        raise unknown("code site", site, known)
    begun = [name for name in known if (folder / name / CONFIG).is_file()]
    done = [name for name in begun if (folder / name / SUMMARY).is_file()]
    wanted = [site] if site else known
    if config is None:  # go on
        sites = [name for name in wanted if name in begun and name not in done]
        if not sites:
            raise InputError(f"{folder} has no prior that training was interrupted of ({_told(done)})")
        return sites
    if not is_first_process(config):  # the first one has begun already, and waits
        return [name for name in wanted if name not in done]
    sites = [name for name in wanted if name not in begun]
    open_ = [name for name in begun if name not in done and name in wanted]
    if open_:
        raise InputError(
            f"training of the prior of {', '.join(open_)} was interrupted: go on with it (--resume), or begin anew "
            f"after removing {', '.join(str(folder / name) for name in open_)}"
        )
    if not sites:
        raise InputError(f"{folder}: {_told(done)}; to train it anew, remove its directory first")
    return sites


def _told(done: list[str]) -> str:
    return f"the prior of {', '.join(done)} is learned already" if done else "none is begun"


def _train(
    folder: Path,
    config: Namespace | None,
    recipe: str,
    present: Prior,
    trained: str,
    site: str,
    codes_of: Callable[..., Codes],
    data: Data,
    shapes: Mapping[str, Sequence[int]],
    progress: bool,
    trust: bool,
) -> FitResult:
    resumed, head = config is None, {}
    vocabulary = folder.parent / TOKENIZER
    had_tokenizer, tokenizer, text = vocabulary.is_file(), None, None
    if config is not None and is_first_process(config):
        check_free(folder)
    if config is None:
        head, config = read_prior_config(folder, trust)
        if head["trained_on"] != trained:
            raise InputError(f"{folder} was begun on other weights than the run has now: remove it and begin anew")
    codes = codes_of(draws=config.draws)
    labels = codes["train"].get("y")
    if resumed:
        classes, recipe, text = head["num_classes"], head["recipe"], head["tokenizer"]
        if text is not None:
            check_tokenizer(vocabulary, text, folder)
            tokenizer = Tokenizer.load(vocabulary)
    else:
        classes = int(labels.max()) + 1 if config.conditional and labels is not None else None
        if classes is not None and bool((labels < 0).any()):
            raise InputError(
                f"{data.name}: some labels of the training data are not known (num_labels), and a prior is conditional "
                "on known ones only: leave them out, with --conditional false"
            )
        if config.text.vocabulary_size is not None:
            sizes = config.text.vocabulary_size, config.text.text_length
            tokenizer = make_tokenizer(vocabulary, data, *sizes)
            text = sizes_of(tokenizer)
    prior = build_prior(config, present, classes, text, shapes)
    if classes is not None and labels is not None:
        prior.seen.copy_(torch.bincount(labels, minlength=classes) > 0)
    code_data = as_code_data(codes, site, list(present.coarser), data, several=config.draws > 0)
    if tokenizer is not None:
        code_data = with_text(code_data, tokenizer, dropout=config.text.dropout, seed=config.seed)
    program = TextCodeModel(prior) if prior.draws_text else CodeModel(prior)
    options = dict(vars(instantiate("fit", config, fit, NOT_CONFIGURED, {})))
    if not resumed and is_first_process(config):
        text = None if tokenizer is None else saved(vocabulary, tokenizer)
        head = {"recipe": recipe, "trained_on": trained, "num_classes": classes, "tokenizer": text}
        write_prior_config(folder, config, head)
    written = [] if resumed else [folder / CONFIG, *([] if had_tokenizer else [vocabulary])]
    with nothing_left_if_refused([folder], written, config):
        result = fit(
            program,
            EmptyGuide(),
            code_data,
            seed=config.seed,
            out=folder,
            resume=resumed,
            described=experiment_entries(config, trained_on=trained, num_classes=classes, text=text),
            progress=progress,
            **options,
        )
        write_summary(folder, result, config, recipe=recipe)
    return result


def as_code_data(codes: Codes, site: str, coarser: list[str], data: Data, several: bool = False) -> Data:
    """Codes as data: x is the site's, with the coarser ones, the label and the actions beside it.

    Args:
        codes: of the data.
        site: of codes.
        coarser: sites of the coarser ones.
        data: what they are codes of.
        several: those of the training data are ``(N, draws, *grid)``; a batch has one draw of each datum, all sites'
            of the same.
    """

    def split(part: str) -> Split:
        own: dict[str, Tensor] = {X: codes[part][site]}
        own |= {name: codes[part][name] for name in (*coarser, "y", "actions") if name in codes[part]}
        drawn = {name: own[name] for name in ("x", *coarser)} if several and part == "train" else {}
        first = {name: value[:, 0].long() for name, value in drawn.items()}
        captions = data.splits[part].captions
        split = Split(own | first, integers=True, captions=captions, name=f"{data.name}, {part}, codes of {site}")
        return split.with_variants(drawn) if drawn else split

    splits = {part: split(part) for part in data.splits}
    return Data(**splits, name=f"{data.name}, codes of {site}", description=data.description)


def _check_takes_text(model: nn.Module) -> None:
    known = accepted_arguments(model)
    if known is not None and "text" not in known:
        raise InputError(
            f"{type(model).__name__} takes no argument 'text' that it could give to a prior over texts: leave "
            "text.vocabulary_size out"
        )
