"""Learned priors in a run directory: how one is configured, built, and put into its model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from pydoc import locate
from types import MappingProxyType
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt
from torch import nn

from pyro_vae.errors import CorruptFileError, InputError, unknown
from pyro_vae.files import TEMPORARY, digest_of, read_yaml
from pyro_vae.guides import EmptyGuide
from pyro_vae.models.codes import CodeModel
from pyro_vae.priors import LatentPrior, Prior
from pyro_vae.programs.site_priors import PriorOfSite, WithPriors
from pyro_vae.runs.codes import TOKENIZER, TextOptions, check_tokenizer
from pyro_vae.runs.config import NOT_CONFIGURED
from pyro_vae.runs.directory import CONFIG, SUMMARY, WEIGHTS
from pyro_vae.runs.known import LARGEST, built_within
from pyro_vae.runs.section_parser import SectionParser
from pyro_vae.runs.sections import experiment_entries, instantiate, parse_stage, write_config
from pyro_vae.runtime import private_seed
from pyro_vae.training import fit
from pyro_vae.training.batches import derived_seed
from pyro_vae.training.checkpoint import load_weights

logger = logging.getLogger(__name__)

PRIORS = "priors"  # directory of a run, with a directory for each site of codes, or of real latents
FROM_DATA = {
    "num_codes",
    "shape",
    "num_classes",
    "coarser",
    "text_length",
    "num_words",
    "num_actions",
    "data_shape",
}  # of a prior
MOST_DIMS = 8  # of a latent's event
DRAWS = "another guide's draws"  # what a prior over latents was trained on, if the weights are others
SECTIONS = ("prior", "text", "fit", "conditional", "draws", "seed")


def add_prior_arguments(parser: ArgumentParser) -> None:
    """Give a parser the sections of a prior's configuration."""
    parser.add_subclass_arguments((Prior, LatentPrior), "prior", skip=FROM_DATA, required=True)
    parser.add_class_arguments(TextOptions, "text")
    parser.add_function_arguments(fit, "fit", skip=NOT_CONFIGURED)
    parser.add_argument("--conditional", type=bool, default=True, help="on labels or actions, if the data have any")
    parser.add_argument(
        "--draws",
        type=NonNegativeInt,
        default=0,
        help="draws of a training datum's codes from a guide that draws them, of which an epoch sees one; 0: only the "
        "most probable codes. A prior over real latents sees new draws at every step",
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
    config: Namespace,
    present: Prior,
    num_classes: int | None,
    text: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> Prior:
    """The prior that a configuration describes, for the codes of the one that is in the model.

    Args:
        config: from :func:`parse_prior_config`.
        present: the prior that is there now.
        num_classes: labels that it is given, or None.
        text: ``text_length`` and ``num_words`` of the texts that it is over, or None.
        shapes: of one datum and what it is beside, ``data_shape``, ``image_shape`` (``Run.shapes``).

    Raises:
        InputError: if its class refuses the grid or its arguments, or is none over texts.
    """
    facts = {**shapes, "num_codes": present.num_codes, "shape": present.shape, "coarser": present.coarser}
    facts |= {"num_classes": num_classes, "num_actions": present.num_actions if config.conditional else None}
    if text is not None:
        facts |= {name: text[name] for name in ("text_length", "num_words")}
    with private_seed(derived_seed(config.seed, "weights")):
        prior = instantiate("prior", config, (Prior, LatentPrior), FROM_DATA, facts)
    if text is not None and not prior.draws_text:
        raise InputError(
            f"{type(prior).__name__} is no prior over texts: leave text.vocabulary_size out, or take "
            "pyro_vae.priors.TransformerPrior"
        )
    return prior


def is_over_latents(config: Namespace) -> bool:
    """Whether a configuration is of a prior over real latents, and not of one over codes."""
    cls = locate(config.prior.class_path)
    return isinstance(cls, type) and issubclass(cls, LatentPrior)


def build_latent_prior(config: Namespace, shape: Sequence[int], shapes: Mapping[str, Sequence[int]]) -> LatentPrior:
    """The prior over a real latent that a configuration describes.

    Args:
        config: from :func:`parse_prior_config`.
        shape: the latent's event shape.
        shapes: of one datum and what it is beside, ``data_shape``, ``image_shape`` (``Run.shapes``).

    Raises:
        InputError: if its class refuses the shape or its arguments.
    """
    facts = {**shapes, "shape": tuple(shape)}
    with private_seed(derived_seed(config.seed, "weights")):
        return instantiate("prior", config, (Prior, LatentPrior), FROM_DATA, facts)


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


def put_learned_priors(
    run: Path, model: nn.Module, shapes: Mapping[str, Sequence[int]], trust: bool = False
) -> nn.Module:
    """Put the priors that were learned for a run into its model.

    Args:
        run: the run directory.
        model: with the run's weights; priors over codes become its own.
        shapes: of one datum and what it is beside (``Run.shapes``).
        trust: run the code of classes outside ``pyro_vae``.

    Returns:
        the model; around it, if there are priors over real latents, the model with these.

    Raises:
        InputError: if one was trained for other weights than the run's, or cannot be read.
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
                "%s is not trained to its end: the prior of '%s' stays the model's own, over codes the uniform one "
                "(pyro-vae train-prior %s --resume)",
                folder,
                folder.name,
                run,
            )
        else:
            finished.append(folder)
    trained = digest_of(run / WEIGHTS) if finished else ""
    found = {}
    for folder in finished:
        head, config = read_prior_config(folder, trust)
        if is_over_latents(config):
            found[folder.name] = _latent_prior(folder, head, config, trained, shapes, trust)
        else:
            _put_code_prior(folder, head, config, trained, model, shapes, trust)
    return WithPriors(model, found).eval() if found else model


def _latent_prior(
    folder: Path,
    head: Mapping[str, Any],
    config: Namespace,
    trained: str,
    shapes: Mapping[str, Sequence[int]],
    trust: bool,
) -> LatentPrior:
    check_trained_on(folder, head, trained, DRAWS)
    with built_within(folder / WEIGHTS, trust):
        prior = build_latent_prior(config, head["shape"], shapes)
    described = experiment_entries(config, trained_on=trained, shape=head["shape"])
    load_weights(folder / WEIGHTS, PriorOfSite(folder.name, prior), EmptyGuide(), described)
    return prior


def check_trained_on(folder: Path, head: Mapping[str, Any], trained: str, other: str) -> None:
    """Check that the weights of a run are those that a prior was trained for.

    Args:
        folder: of the prior.
        head: what it says.
        trained: digest of the run's weights.
        other: what it was trained on, if they are others.

    Raises:
        InputError: if they are others.
    """
    if head["trained_on"] != trained:
        raise InputError(
            f"the prior in {folder} was trained on {other}, of weights {str(head['trained_on'])[:12]}…, and "
            f"{folder.parent.parent} has {trained[:12]}…. Remove its directory, and train it again (pyro-vae "
            "train-prior)"
        )


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


def _put_code_prior(
    folder: Path,
    head: Mapping[str, Any],
    config: Namespace,
    trained: str,
    model: nn.Module,
    shapes: Mapping[str, Sequence[int]],
    trust: bool,
) -> None:
    priors, site = code_priors(model), folder.name
    if site not in priors:
        raise unknown(f"code site in {folder.parent}", site, priors)
    check_trained_on(folder, head, trained, "another codebook")
    if head["tokenizer"] is not None:
        check_tokenizer(folder.parent / TOKENIZER, head["tokenizer"], folder)
    with built_within(folder / WEIGHTS, trust):
        prior = build_prior(config, priors[site], head["num_classes"], head["tokenizer"], shapes)
    facts = {"trained_on": trained, "num_classes": head["num_classes"], "text": head["tokenizer"]}
    load_weights(folder / WEIGHTS, CodeModel(prior), EmptyGuide(), experiment_entries(config, **facts))
    priors[site] = prior.eval()


def write_prior_config(folder: Path, config: Namespace, head: dict[str, Any]) -> None:
    """Write a prior's configuration, and before it what :func:`read_prior_config` gives of its training."""
    parser = SectionParser(exit_on_error=False)
    add_prior_arguments(parser)
    write_config(folder / CONFIG, parser, config, head)


def read_prior_config(folder: Path, trust: bool) -> tuple[dict[str, Any], Namespace]:
    """What a prior's directory says: recipe, digest of weights, number of classes, …; and its configuration.

    Raises:
        InputError: if it names code outside the package and is not trusted.
        CorruptFileError: if it is damaged.
    """
    file = folder / CONFIG
    raw = read_yaml(file)
    try:
        head = {key: raw.pop(key) for key in ("version", "recipe", "trained_on", "num_classes")}
        head |= {key: raw.pop(key, None) for key in ("tokenizer", "shape")}
    except KeyError as error:
        raise CorruptFileError(f"{file} lacks {error}") from error
    classes = head["num_classes"]
    counted = classes is None or (type(classes) is int and 1 <= classes <= LARGEST)
    if not counted or not isinstance(head["tokenizer"], Mapping | None):
        raise CorruptFileError(f"{file}: num_classes or tokenizer is damaged")
    config = parse_prior_config(raw, str(file), trust=trust)
    if is_over_latents(config) and not _is_shape(head["shape"]):
        raise CorruptFileError(f"{file}: shape {str(head['shape'])[:80]} is no shape of a latent")
    return head, config


def _is_shape(value: Any) -> bool:
    right = isinstance(value, list) and len(value) <= MOST_DIMS
    return right and all(type(size) is int and 1 <= size <= LARGEST for size in value)
