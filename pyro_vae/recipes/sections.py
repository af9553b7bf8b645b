"""Configurations by section: read, checked and written in one way, whatever they configure."""

from __future__ import annotations

import json
import os
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from pyro_vae.errors import InputError, unknown
from pyro_vae.files import write_atomically
from pyro_vae.recipes.known import canonical, check_known, check_known_classes, check_shape, full_name

CONFIG = "config.yaml"
OPTIONS = ("data", "fit", "text")  # sections that are arguments of a function
HARMLESS = (  # to a result, if they change at a resume
    *("fit.epochs", "fit.checkpoint_every", "fit.compile", "fit.device", "fit.num_devices"),
    *("data.name", "data.root"),  # where the data are: that they are the same is seen by their digests
)


def check_sections(config: Mapping[str, Any], known: Sequence[str], source: str) -> None:
    """Check that a configuration has no section but known ones.

    Raises:
        InputError: names the section, with the nearest known one.
    """
    for section in config:
        if section not in known:
            raise unknown(f"section in {source}", section, known)


def parse_sections(
    parser: ArgumentParser,
    config: Mapping[str, Any],
    source: str,
    *,
    trust: bool,
    defaults: bool,
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Namespace:
    """The one reader of configurations: check one against a parser's signatures, and fill in the defaults.

    One that is not trusted may name the package's own classes alone (:mod:`pyro_vae.recipes.known`): that is checked
    before the parser sees it, and again of what the parser has made of it.

    Args:
        parser: with the sections.
        config: as it was read.
        source: what the errors call it.
        trust: whether it may name code outside the package, which is imported and run.
        defaults: fill them in, or leave them out.
        prepare: what is done with a trusted one before it is parsed.

    Raises:
        InputError: names what does not fit, or what is not trusted.
        CorruptFileError: if it is nested too deeply, or holds other than texts, numbers, lists and mappings.
    """
    check_shape(config, source)
    for name, section in {**config, **{f"first.{k}": v for k, v in dict(config.get("first", {})).items()}}.items():
        if name.rpartition(".")[2] in OPTIONS and not isinstance(section, Mapping | str):
            raise InputError(f"{source}: section '{name}' holds options by their names, got {section!r}"[:500])
    if trust:
        config = prepare(dict(config))
    else:
        check_known(config, source)
        config = canonical(config)
    try:
        parsed = parser.parse_object(dict(config), defaults=defaults)
    except (ArgumentError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f"{source}: {error}") from error
    if not trust:
        check_known_classes(parsed, source)
    return parsed


def classes_changed(said: Namespace, chosen: Namespace) -> list[str]:
    """What has become of a recipe's classes, a line for each that another has taken the place of.

    Args:
        said: what the recipe says, without defaults.
        chosen: what is to be done.
    """
    lines = []
    for name, recipe in said.items(branches=True):
        if not isinstance(recipe, Namespace) or "class_path" not in recipe:
            continue
        now = chosen.get(name)
        if not isinstance(now, Namespace) or "class_path" not in now:
            lines.append(f"{name}: none, in place of the recipe's {recipe.class_path}")
        elif locate(now.class_path) is not locate(recipe.class_path):
            options, present = (vars(each.get("init_args", Namespace())) for each in (recipe, now))
            kept = [f"{key} = {value}" for key, value in options.items() if key in present and present[key] == value]
            gone = [key for key in options if key not in present]
            told = [f"of the recipe's options {', '.join(kept)} kept"] if kept else []
            told += [f"{', '.join(gone)} dropped, which it does not have"] if gone else []
            where = name.replace(".init_args", "")
            lines.append(
                "; ".join([f"{where}: {now.class_path} in place of the recipe's {recipe.class_path}", *told])
                + ("" if told else ", with its own defaults")
            )
    return lines


def write_config(file: Path, parser: ArgumentParser, config: Namespace, head: Mapping[str, Any]) -> None:
    """Write a configuration as YAML, atomically: the package's version, what ``head`` says, and all the sections."""
    from pyro_vae import __version__

    body = yaml.safe_load(parser.dump(config, "yaml", False))  # False: with the entries that are null
    text = yaml.safe_dump({"version": __version__, **head, **body}, sort_keys=False)
    write_atomically(file, lambda temporary: temporary.write_text(text))


def is_first_process(config: Namespace | None) -> bool:
    """Whether this is the first of data-parallel processes, which alone writes; the others run the same command.

    Args:
        config: says how many there are; the environment's LOCAL_RANK means something only where there are several.
            None: it is not known yet.
    """
    alone = config is not None and config.fit.num_devices == 1
    return alone or os.environ.get("LOCAL_RANK", "0") == "0"


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration with the names of its sections joined by dots, without the ``init_args`` between them."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, name)
        else:
            flat[name] = value
    return flat


def told_apart(config: Namespace, **facts: Any) -> dict[str, str]:
    """All of a configuration by its keys, but for what may change while its training is gone on with.

    Args:
        config: of a run, a prior or a ranker.
        facts: what else it depends on.
    """
    plain = yaml.safe_load(json.dumps(config.as_dict(), default=str))
    return {f"{CONFIG} {k}": str(full_name(v)) for k, v in (flattened(plain) | facts).items() if k not in HARMLESS}
