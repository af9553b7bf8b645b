"""Learned priors in a run directory: how one is configured, built, and put into its model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt
from torch import nn

from pyro_vae.errors import CorruptFileError, InputError, unknown
from pyro_vae.files import TEMPORARY, read_yaml
from pyro_vae.guides import EmptyGuide
from pyro_vae.models.codes import CodeModel
from pyro_vae.priors import Prior
from pyro_vae.runs.codes import TOKENIZER, TextOptions, check_tokenizer, digest
from pyro_vae.runs.config import NOT_CONFIGURED, experiment_entries, instantiate, parse_stage
from pyro_vae.runs.directory import CONFIG, SUMMARY, WEIGHTS
from pyro_vae.runs.known import LARGEST, built_within
from pyro_vae.runtime import private_seed
from pyro_vae.training import fit
from pyro_vae.training.batches import derived_seed
from pyro_vae.training.checkpoint import load_weights

logger = logging.getLogger(__name__)

PRIORS = "priors"  # directory of a run, with a directory for each code site
FROM_DATA = {
    "num_codes",
    "shape",
    "num_classes",
    "coarser",
    "text_length",
    "num_words",
}  # of a prior
SECTIONS = ("prior", "text", "fit", "conditional", "draws", "seed")


def add_prior_arguments(parser: ArgumentParser) -> None:
    """Give a parser the sections of a prior's configuration."""
    parser.add_subclass_arguments(Prior, "prior", skip=FROM_DATA, required=True)
    parser.add_class_arguments(TextOptions, "text")
    parser.add_function_arguments(fit, "fit", skip=NOT_CONFIGURED)
    parser.add_argument("--conditional", type=bool, default=True, help="on the class label, if the data have labels")
    parser.add_argument(
        "--draws",
        type=NonNegativeInt,
        default=0,
        help="draws of a training datum's codes from a guide that draws them, of which an epoch sees one; 0: only the "
        "most probable codes",
    )
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, data order and noise")


def parse_prior_config(
    config: Mapping[str, Any], source: str, *, trust: bool = False, defaults: bool = True
) -> Namespace:
    """Check a prior's configuration and fill in the defaults, or leave them out.

    Raises:
        InputError: names what does not fit.
    """
    if "prior" not in config:
        raise InputError(f"{source} is not a prior's recipe: it has no section 'prior' (train it with pyro-vae train)")
    return parse_stage(config, SECTIONS, add_prior_arguments, source, trust=trust, defaults=defaults)


def build_prior(
    config: Namespace, present: Prior, num_classes: int | None, text: Mapping[str, Any] | None = None
) -> Prior:
    """The prior that a configuration describes, for the codes of the one that is in the model.

    Args:
        config: from :func:`parse_prior_config`.
        present: the prior that is there now.
        num_classes: labels that it is given, or None.
        text: ``text_length`` and ``num_words`` of the texts that it is over, or None.

    Raises:
        InputError: if its class refuses the grid or its arguments, or is none over texts.
    """
    facts = {"num_codes": present.num_codes, "shape": present.shape, "coarser": present.coarser}
    facts |= {"num_classes": num_classes}
    if text is not None:
        facts |= {name: text[name] for name in ("text_length", "num_words")}
    with private_seed(derived_seed(config.seed, "weights")):
        prior = instantiate("prior", config, Prior, FROM_DATA, facts)
    if text is not None and not prior.draws_text:
        raise InputError(
            f"{type(prior).__name__} is no prior over texts: leave text.vocabulary_size out, or take "
            "pyro_vae.priors.TransformerPrior"
        )
    return prior


def code_priors(model: nn.Module) -> nn.ModuleDict:
    """The priors over codes of a model, by site: its attribute ``priors``.

    Raises:
        InputError: if it has none.
    """
    priors = getattr(model, "priors", None)
    if not isinstance(priors, nn.ModuleDict) or not all(isinstance(p, Prior) for p in priors.values()) or not priors:
        raise InputError(
            f"{type(model).__name__} has no codes that a prior could be learned for: a model says so by an attribute "
            "'priors', a ModuleDict from code sites to pyro_vae.priors.Prior"
        )
    return priors


def put_learned_priors(run: Path, model: nn.Module, trust: bool = False) -> list[str]:
    """Put the priors that were learned for a run into its model.

    Args:
        run: the run directory.
        model: with the run's weights.
        trust: run the code of classes outside ``pyro_vae``.

    Returns:
        the sites.

    Raises:
        InputError: if one was trained on the codes of other weights than the run's, or cannot be read.
        CorruptFileError: if a file is missing or damaged.
    """
    finished = []
    for folder in prior_folders(run):
        if not (folder / CONFIG).is_file():
            raise CorruptFileError(
                f"{folder} holds files of a prior of '{folder.name}' but no {CONFIG}: put that back, or move the "
                "directory away for the run without that prior"
            )
        if not (folder / SUMMARY).is_file():
            logger.warning(
                "%s is not trained to its end: the prior of '%s' stays uniform (pyro-vae train-prior %s --resume)",
                folder,
                folder.name,
                run,
            )
        else:
            finished.append(folder)
    trained = digest(run / WEIGHTS) if finished else ""
    return [put_prior(folder, trained, model, trust) for folder in finished]


def prior_folders(run: Path) -> list[Path]:
    """The directories of priors that were learned, or begun, for a run.

    Raises:
        InputError: if the directory of them cannot be read.
    """
    try:
        found = sorted(path for path in (run / PRIORS).iterdir() if path.is_dir())
        return [folder for folder in found if any(not f.name.startswith(TEMPORARY) for f in folder.iterdir())]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot read the priors of {run}: {error}") from error


def put_prior(folder: Path, trained: str, model: nn.Module, trust: bool) -> str:
    """Put one learned prior into a model; see :func:`put_learned_priors`."""
    head, config = read_prior_config(folder, trust)
    priors, site = code_priors(model), folder.name
    if site not in priors:
        raise unknown(f"code site in {folder.parent}", site, priors)
    if head["trained_on"] != trained:
        raise InputError(
            f"the prior in {folder} was trained on another codebook: on the codes of weights "
            f"{str(head['trained_on'])[:12]}…, and those of {folder.parent.parent} are {trained[:12]}…. Remove its "
            "directory, and train it again (pyro-vae train-prior)"
        )
    if head["tokenizer"] is not None:
        check_tokenizer(folder.parent / TOKENIZER, head["tokenizer"], folder)
    with built_within(folder / WEIGHTS, trust):
        prior = build_prior(config, priors[site], head["num_classes"], head["tokenizer"])
    facts = {"trained_on": trained, "num_classes": head["num_classes"], "text": head["tokenizer"]}
    load_weights(folder / WEIGHTS, CodeModel(prior), EmptyGuide(), experiment_entries(config, **facts))
    priors[site] = prior.eval()
    return site


def read_prior_config(folder: Path, trust: bool) -> tuple[dict[str, Any], Namespace]:
    """What a prior's directory says: recipe, digest of weights, number of classes, tokenizer; and its configuration.

    Raises:
        InputError: if it names code outside the package and is not trusted.
        CorruptFileError: if it is damaged.
    """
    file = folder / CONFIG
    raw = read_yaml(file)
    try:
        head = {key: raw.pop(key) for key in ("version", "recipe", "trained_on", "num_classes")}
        head["tokenizer"] = raw.pop("tokenizer", None)
    except KeyError as error:
        raise CorruptFileError(f"{file} lacks {error}") from error
    classes = head["num_classes"]
    counted = classes is None or (type(classes) is int and 1 <= classes <= LARGEST)
    if not counted or not isinstance(head["tokenizer"], Mapping | None):
        raise CorruptFileError(f"{file}: num_classes or tokenizer is damaged")
    return head, parse_prior_config(raw, str(file), trust=trust)
