"""The names that an untrusted configuration may use: the package's own classes, plain words and numbers."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from torch import nn

import pyro_vae.guides
import pyro_vae.likelihoods
import pyro_vae.models
import pyro_vae.networks
import pyro_vae.objectives
import pyro_vae.priors
import pyro_vae.training
from pyro_vae.errors import InputError
from pyro_vae.objectives import Divergence, Objective
from pyro_vae.runtime import LimitedMemory
from pyro_vae.training import Aggressive, Schedule
from pyro_vae.training.loggers import NAMES as LOGGERS
from pyro_vae.training.loggers import logger_names
from pyro_vae.training.lr_scheduler import schedulers
from pyro_vae.training.optimizer import optimizers

FREE = ("data",)  # top-level sections whose strings are no classes: their arguments are texts, numbers and paths
CLASSES = ("model", "guide", "pair", "objective", "prior")  # sections that are a class each
BUILT = (*CLASSES, "ranker", "first")  # sections by which modules are built
SPARE = 1 << 30  # bytes of tensors that are built and not saved
FEWEST_BYTES = 32  # of a tensor in a file, its name and shape
LARGEST, LONGEST = 10**6, 1000  # of a size there, and of a list
_OF_TRAINING = Schedule | Aggressive
_HOUSES = (
    *(pyro_vae.models, pyro_vae.guides, pyro_vae.likelihoods, pyro_vae.priors, pyro_vae.objectives, pyro_vae.training),
    pyro_vae.networks,  # what a model is given its condition by
)


@cache
def known_classes() -> dict[str, Any]:
    """The package's models, guides, likelihoods, priors, networks, objectives, schedules and the like, by all names."""
    found: dict[str, Any] = {}
    for house in _HOUSES:
        for name in house.__all__:
            cls = getattr(house, name)
            is_module = inspect.isclass(cls) and issubclass(cls, nn.Module | Objective | Divergence | _OF_TRAINING)
            if not is_module or not cls.__module__.startswith("pyro_vae."):
                continue
            if house is not pyro_vae.training or issubclass(cls, Objective | _OF_TRAINING):
                for each in (name, f"pyro_vae.{name}", f"{house.__name__}.{name}", f"{cls.__module__}.{name}"):
                    found[each] = cls
    return found


@cache
def known_paths() -> dict[str, frozenset[str]]:
    """Paths of torch's classes that an option of ``fit`` may be, which looks them up: that option, and no other."""
    return {
        "optimizer": frozenset(f"torch.optim.{name}" for name in optimizers()),
        "lr_scheduler": frozenset(f"torch.optim.lr_scheduler.{name}" for name in schedulers()),
    }


def _without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without those options of training that are known paths."""
    found = dict(config)
    if isinstance(found.get("fit"), Mapping):
        options, known = found["fit"].items(), known_paths()
        found["fit"] = {k: v for k, v in options if not (k in known and isinstance(v, str) and v in known[k])}
    return found


def foreign_names(config: Any) -> list[str]:
    """Strings of a configuration through which code could be reached that is not among :func:`known_classes`.

    All is foreign but known classes, plain words and numbers, the paths of torch's optimizers and schedulers where
    they belong (:func:`known_paths`), and what stands in the section ``data``. A word that is
    also the name of a file is foreign: in the place of a class, the parser would read the file.

    Args:
        config: as it was read from YAML.
    """
    config = _without_paths(config) if isinstance(config, Mapping) else {}
    if isinstance(config.get("first"), Mapping):
        config["first"] = _without_paths(config["first"])
    sections = config.items()
    names = [text for key, value in sections if key not in FREE for text in _strings(value)]
    return list(dict.fromkeys(name for name in names if not _harmless(name)))


def check_known(config: Mapping[str, Any], source: str) -> None:
    """Check a configuration that is not trusted, before a parser sees it.

    Raises:
        InputError: names what could run code, and the key under which it stands.
    """
    for section in FREE:
        values = config.get(section, {})
        if not isinstance(values, Mapping) or any(isinstance(v, Mapping | list | tuple) for v in values.values()):
            raise InputError(f"{source}: section '{section}' holds texts, numbers, true, false and null only")
    for section in BUILT:
        _check_sizes(config.get(section), f"{source}: {section}")
    for section in ("fit", "first"):
        _check_loggers(config.get(section), f"{source}: {section}")
    foreign = foreign_names(config)
    if not foreign:
        return
    keys = [key for name in foreign[:1] for key in _keys_of(config, name)]
    files = [name for name in foreign if _is_word(name)]
    where = f", under {keys[0]}" if keys else ""
    if files and len(files) == len(foreign):
        raise InputError(
            f"{source} says {', '.join(files)[:200]}{where}, which is also the name of a file in the working "
            "directory, and could be read in its place: work in another directory"
        )
    raise InputError(
        f"{source} names code outside pyro_vae ({', '.join(foreign)[:200]}{where}), which would be run. If you "
        "trust it, say so: trust=True in Python, --trust on the command line"
    )


def _check_sizes(value: Any, at: str) -> None:
    """Check that nothing is built that no machine has the memory and the time for.

    Raises:
        InputError: names the key.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            if key not in ("fit", "seed"):  # of section first; they build nothing
                _check_sizes(each, f"{at}.{key}")
    elif isinstance(value, list | tuple):
        for each in value:
            _check_sizes(each, at)
    number = abs(value) if isinstance(value, int) else len(value) if isinstance(value, list | tuple) else 0
    most = LARGEST if isinstance(value, int) else LONGEST
    if number > most:
        words = str(value) if isinstance(value, int) else f"{number:,} entries"
        raise InputError(
            f"{at} is {words}, where {most:,} is the most. If you trust it, say so: trust=True in Python, --trust on "
            "the command line"
        )


def _check_loggers(section: Any, at: str) -> None:
    """Check that the loggers of a section ``fit``, or of the one in ``first``, are said by their names.

    Raises:
        InputError: names the key.
    """
    if not isinstance(section, Mapping):
        return
    _check_loggers(section.get("fit"), f"{at}.fit")
    said = section.get("logger")
    for name in said if isinstance(said, list | tuple) else [] if said is None else [said]:
        if not isinstance(name, str):
            raise InputError(f"{at}.logger holds names of loggers ({', '.join(LOGGERS)}), got {str(name)[:80]}")
        logger_names(name)


def built_within(weights: Path, trust: bool) -> AbstractContextManager[Any]:
    """A block in which a configuration that is not trusted builds nothing that is much larger than its weights' file.

    Args:
        weights: the file.
        trust: whether it is trusted.

    Raises:
        InputError: inside the block.
    """
    if trust or not weights.is_file():
        return nullcontext()
    size = weights.stat().st_size
    words = (
        f"{weights.parent}: what its configuration describes is far larger than {weights.name}, so it is not theirs. "
        "If you trust it, say so: trust=True in Python, --trust on the command line"
    )
    return LimitedMemory(SPARE + 16 * size, 1000 + size // FEWEST_BYTES, words)


def check_known_classes(parsed: Any, source: str) -> None:
    """Check that every class in a parsed configuration that is not trusted is a known one.

    Raises:
        InputError: names the class.
    """
    for path in _class_paths(parsed):
        if path not in known_classes():
            raise InputError(
                f"{source}: {str(path)[:200]} is no model, guide, likelihood, prior, network, objective or schedule of "
                "pyro_vae. If you trust it, say so: trust=True in Python, --trust on the command line"
            )


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that is not trusted, in which classes stand by their full paths."""

    def replaced(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: full_name(v) if k == "class_path" else replaced(v) for k, v in value.items()}
        return [replaced(each) for each in value] if isinstance(value, list | tuple) else value

    return {
        key: {"class_path": full_name(value)} if key in CLASSES and isinstance(value, str) else replaced(value)
        for key, value in config.items()
    }


def full_name(name: Any) -> Any:
    """The usual import path of a known class, ``pyro_vae.models.VAE``; anything else as it is."""
    cls = known_classes().get(name) if isinstance(name, str) else None
    if cls is None:
        return name
    house = next(house for house in _HOUSES if getattr(house, cls.__name__, None) is cls)
    return f"{house.__name__}.{cls.__name__}"


def _harmless(text: str) -> bool:
    if text in known_classes():
        return True
    if text and os.path.lexists(text):
        return False
    if _is_word(text):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_word(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_:+,-]*", text) is not None  # with a comma: several words, and no import path


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(each)


def _keys_of(value: Any, text: str, at: str = "") -> Iterator[str]:
    """The keys under which a text stands, ``model.init_args.likelihood``."""
    if value == text:
        yield at
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if at or key not in FREE:
                yield from _keys_of(each, text, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _keys_of(each, text, at)


def _class_paths(value: Any) -> Iterator[Any]:
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield value["class_path"]
        for each in value.values():
            yield from _class_paths(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _class_paths(each)
