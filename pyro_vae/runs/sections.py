"""Sections of a configuration, of whatever is trained: read, checked, written, compared, and made into objects."""

from __future__ import annotations

import inspect
import json
import os
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from torch import nn

from pyro_vae.errors import InputError, unknown
from pyro_vae.files import check_shape, write_atomically
from pyro_vae.priors import LatentPrior
from pyro_vae.runs.known import canonical, check_known, check_known_classes, full_name
from pyro_vae.runs.section_parser import NUM_ACTIONS, SHAPE, SectionParser, known_by_data

CONFIG = "config.yaml"
OPTIONS = ("data", "fit", "text")  # sections that are arguments of a function
REFUSALS = (TypeError, ValueError, ArithmeticError, MemoryError, RuntimeError)  # of a class that is given odd arguments


HARMLESS = (  # to a result, if they change at a resume
    *(
        "fit.epochs",
        "fit.checkpoint_every",
        "fit.compile",
        "fit.device",
        "fit.num_devices",
        "fit.num_nodes",
        "fit.num_workers",
    ),
    *("fit.logger", "fit.log_images_every", "first.fit.logger", "first.fit.log_images_every"),  # told elsewhere
    *("data.name", "data.root"),  # where the data are: that they are the same is seen by their digests
)
SINCE = {  # options that older runs do not have; where they are at these values, an experiment does not say them
    *(("fit.param_groups", "None"), ("fit.lr_scheduler", "None"), ("fit.lr_scheduler_options", "None")),
    *(("fit.lr_scheduler_interval", "epoch"), ("fit.grad_accumulation", "1")),
    *(("objective.free_bits_of", "batch"), ("fit.length_buckets", "None"), ("fit.aggressive", "None")),
    ("data.colours", "None"),
}


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

    One that is not trusted may name the package's own classes alone (:mod:`pyro_vae.runs.known`): that is checked
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


def parse_stage(
    config: Mapping[str, Any],
    sections: Sequence[str],
    add_arguments: Callable[[ArgumentParser], None],
    source: str,
    *,
    trust: bool,
    defaults: bool,
) -> Namespace:
    """Check the configuration of a second stage; see :func:`parse_sections`.

    Args:
        config: as it was read.
        sections: that it may have.
        add_arguments: gives a parser those sections.
        source, trust, defaults: as for :func:`parse_sections`.
    """
    check_sections(config, sections, source)
    parser = SectionParser(exit_on_error=False)
    add_arguments(parser)
    return parse_sections(parser, config, source, trust=trust, defaults=defaults)


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
            notes = [f"of the recipe's options {', '.join(kept)} kept"] if kept else []
            notes += [f"{', '.join(gone)} dropped, which it does not have"] if gone else []
            where = name.replace(".init_args", "")
            lines.append(
                "; ".join([f"{where}: {now.class_path} in place of the recipe's {recipe.class_path}", *notes])
                + ("" if notes else ", with its own defaults")
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


def experiment_entries(config: Namespace, **facts: Any) -> dict[str, str]:
    """All of a configuration by its keys, but for what may change while its training is gone on with.

    Args:
        config: of a run, a prior or a ranker.
        facts: what else it depends on.
    """
    plain = yaml.safe_load(json.dumps(config.as_dict(), default=str))
    entries = {k: str(full_name(v)) for k, v in (flattened(plain) | facts).items() if k not in HARMLESS}
    return {f"{CONFIG} {k}": v for k, v in entries.items() if (k.removeprefix("first."), v) not in SINCE}


def instantiate(part: str, config: Namespace, base: Any, skip: set[str], facts: Mapping[str, Any]) -> Any:
    """Construct one section of a configuration: an object of a class, or a function's arguments.

    Args:
        part: the section.
        config: the configuration.
        base: what the class must be derived from (or one of several), or the function.
        skip: arguments that are not configured.
        facts: handed by name to a class that has such arguments.

    Raises:
        InputError: if the class refuses its arguments.
    """

    def make(cls: type, *args: Any, applied_instantiation_links: Any = None, **kwargs: Any) -> Any:
        accepted = inspect.signature(cls).parameters
        of_latents = {"shape": _top_latent(chosen[part])} if issubclass(cls, LatentPrior) else {}
        known = {k: v for k, v in {**of_latents, **facts}.items() if k in accepted and kwargs.get(k) is None}
        try:
            _check_known_by_data(cls, accepted.values(), {**kwargs, **known}, facts)
            return cls(*args, **{**kwargs, **known})
        except InputError as error:  # of several bases the parser tells what each of them says, one after another
            refused.append(error)
            raise

    refused: list[InputError] = []
    parser = SectionParser(exit_on_error=False)
    if isinstance(base, type | tuple):
        parser.add_subclass_arguments(base, part, skip=skip)
    else:
        parser.add_function_arguments(base, part, skip=skip)
    chosen = Namespace({part: config.get(part)})
    try:
        return parser.instantiate(chosen, instantiators=[(make, nn.Module, True)]).get(part)
    except REFUSALS as error:
        ours = next((e for e in (*refused, *_causes(error)) if isinstance(e, InputError)), None)
        raise ours or InputError(f"{part}: {error}") from error


def _check_known_by_data(
    cls: type, parameters: Iterable[inspect.Parameter], given: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    """Check that a class has all that it cannot do without and the data may know: said, or known."""
    needed = [p.name for p in parameters if p.default is p.empty and known_by_data(p.name) and p.name not in given]
    if needed and needed[0] == NUM_ACTIONS:
        raise InputError(
            f"{cls.__name__} needs {NUM_ACTIONS}, and the data do not say how many actions they have: say {NUM_ACTIONS}"
        )
    if needed:
        entry = needed[0].removesuffix(SHAPE)
        known = ", ".join("x" if name == "data_shape" else name.removesuffix(SHAPE) for name in facts if SHAPE in name)
        raise InputError(
            f"{cls.__name__} needs {needed[0]}, the shape of one datum's '{entry}'; the data have no '{entry}', only "
            f"{known}: say {needed[0]}, or take data with such an entry"
        )


def _top_latent(section: Any) -> tuple[int, ...] | None:
    """The shape of the latent vector that a section's model starts from, as its arguments say it."""
    arguments = section.get("init_args", {})
    size, sizes = arguments.get("latent_dim"), arguments.get("latent_dims")
    return (size,) if size else tuple(sizes[-1:]) if sizes else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
