"""From a configuration to objects: data, model, guide, objective, arguments of ``fit``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from torch import Tensor, nn

from pyro_vae.data import Data, load_data
from pyro_vae.errors import InputError
from pyro_vae.inference import ELBO, Objective, fit
from pyro_vae.inference.batches import derived_seed
from pyro_vae.program import as_programs
from pyro_vae.recipes.functions import Function, with_functions
from pyro_vae.recipes.sections import check_sections, parse_sections
from pyro_vae.runtime import private_seed

PAIR_SECTIONS = ("model", "guide", "pair", "objective", "fit")
SECTIONS = ("data", *PAIR_SECTIONS, "first", "seed")
NOT_CONFIGURED = {"model", "guide", "data", "objective", "out", "resume", "described", "seed", "progress"}
PARTS: dict[str, tuple[type, set[str]]] = {  # what each section is derived from, and what of it is not configured
    "model": (nn.Module, {"data_shape", "data_mean"}),
    "guide": (nn.Module, {"model"}),
    "pair": (nn.Module, {"data_shape", "data_mean"}),
    "objective": (Objective, set()),
}


@dataclass
class Experiment:
    """What a configuration describes, built; plain functions and methods are wrapped."""

    model: nn.Module
    guide: nn.Module
    objective: Objective
    fit_options: dict[str, Any]


def add_experiment_arguments(parser: ArgumentParser, config: Mapping[str, Any]) -> None:
    """Give a parser the sections of a configuration, typed from the signatures that they go to.

    Args:
        parser: the parser.
        config: the configuration as it was read; its section ``first``, a pair that is trained before the main one, is
            known where it is there, and ``pair`` in the place of ``model`` and ``guide``.
    """
    parser.add_function_arguments(load_data, "data")
    for prefix in ("", "first.") if "first" in config else ("",):
        for part in _parts_of(config["first"] if prefix else config):
            base, skip = PARTS[part]
            parser.add_subclass_arguments(base, f"{prefix}{part}", skip=skip, required=part != "objective")
        parser.add_function_arguments(fit, f"{prefix}fit", skip=NOT_CONFIGURED)
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, data order and noise")


def _parts_of(config: Any) -> list[str]:
    """The sections that a pair's configuration may have: one class for model and guide, or one for each."""
    without = ("model", "guide") if isinstance(config, (Mapping, Namespace)) and "pair" in config else ("pair",)
    return [part for part in PARTS if part not in without]


def experiment_parser(config: Mapping[str, Any]) -> ArgumentParser:
    """A parser of configurations alone, with the sections of one."""
    parser = ArgumentParser(exit_on_error=False)
    add_experiment_arguments(parser, config)
    return parser


def parse_config(
    parser: ArgumentParser, config: Mapping[str, Any], source: str, *, trust: bool = False, defaults: bool = True
) -> Namespace:
    """Check a configuration against the signatures and fill in the defaults, or leave them out.

    Raises:
        InputError: names what does not fit, with the nearest known section; or code outside the package, if the
            configuration is not trusted.
    """
    if "prior" in config:
        raise InputError(f"{source} is a prior's recipe: learn it for a run, with pyro-vae train-prior NAME --on DIR")
    if "ranker" in config:
        raise InputError(f"{source} is a ranker's recipe: learn it for a run, with pyro-vae train-ranker --on DIR")
    check_sections(config, SECTIONS, source)
    _check_pair(config, source)
    if "first" in config:
        if not isinstance(config["first"], Mapping):
            raise InputError(f"{source}: section 'first' holds the sections {', '.join(PAIR_SECTIONS)} of a pair")
        check_sections(config["first"], PAIR_SECTIONS, f"{source}, first")
        _check_pair(config["first"], f"{source}, first")
    return parse_sections(parser, config, source, trust=trust, defaults=defaults, prepare=_with_functions)


def _with_functions(config: dict[str, Any]) -> dict[str, Any]:
    config = with_functions(config, ("model", "guide"))
    return config | {"first": with_functions(config["first"], ("model", "guide"))} if "first" in config else config


def _check_pair(config: Mapping[str, Any], source: str) -> None:
    beside = [part for part in ("model", "guide") if part in config]
    if "pair" in config and beside:
        raise InputError(
            f"{source}: section 'pair' names one class with the methods model and guide; leave {beside[0]} out, or say "
            "model and guide apart"
        )


def load_configured_data(config: Namespace) -> Data:
    """The data that a configuration names."""
    return load_data(**vars(config.data))


def build(config: Namespace, data_shape: tuple[int, ...], data_mean: Tensor | None = None) -> Experiment:
    """Construct model, guide and objective.

    What a class needs and only the data know is handed to it by name, if it has such an argument:
    ``data_shape``, ``data_mean`` for the model, ``model`` for the guide. Initial weights depend on the
    configuration's seed alone.

    Args:
        config: from :func:`parse_config`.
        data_shape: shape of one datum.
        data_mean: mean of the training data, shape ``data_shape`` (None when weights will be loaded).

    Raises:
        InputError: if a class refuses its arguments, or the one of section ``pair`` lacks a method.
    """
    facts: dict[str, Any] = {"data_shape": data_shape, "data_mean": data_mean}
    built: dict[str, Any] = {}
    modules: dict[str, ModuleType] = {}  # that plain functions are from

    with private_seed(derived_seed(config.seed, "weights")):
        for part in _parts_of(config):
            made = instantiate(part, config, *PARTS[part], facts)
            built[part] = facts[part] = made.run(modules) if isinstance(made, Function) else made
    if "pair" in built:
        built |= _methods(built["pair"])
    model, guide = built["model"], built["guide"]
    if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
        model, guide = as_programs(model, guide)
    options = dict(vars(instantiate("fit", config, fit, NOT_CONFIGURED, {})))
    return Experiment(model, guide, built["objective"] or ELBO(), options)


def _methods(pair: Any) -> dict[str, Any]:
    for name in ("model", "guide"):
        if not callable(getattr(pair, name, None)):
            raise InputError(
                f"pair: {type(pair).__name__} has no method {name}; it needs model(self, x=None, *, num_samples=1) "
                "and guide(self, x)"
            )
    return {"model": pair.model, "guide": pair.guide}


def instantiate(part: str, config: Namespace, base: Any, skip: set[str], facts: Mapping[str, Any]) -> Any:
    """Construct one section of a configuration: an object of a class, or a function's arguments.

    Args:
        part: the section.
        config: the configuration.
        base: what the class must be derived from, or the function.
        skip: arguments that are not configured.
        facts: handed by name to a class that has such arguments.

    Raises:
        InputError: if the class refuses its arguments.
    """

    def make(cls: type, *args: Any, applied_instantiation_links: Any = None, **kwargs: Any) -> Any:
        accepted = inspect.signature(cls).parameters
        known = {k: v for k, v in facts.items() if k in accepted and k not in kwargs}
        return cls(*args, **{**known, **kwargs})

    parser = ArgumentParser(exit_on_error=False)
    if isinstance(base, type):
        parser.add_subclass_arguments(base, part, skip=skip)
    else:
        parser.add_function_arguments(base, part, skip=skip)
    chosen = Namespace({part: config.get(part)})
    try:
        return parser.instantiate(chosen, instantiators=[(make, nn.Module, True)]).get(part)
    except (TypeError, ValueError) as error:
        ours = next((e for e in _causes(error) if isinstance(e, InputError)), None)
        raise ours or InputError(f"{part}: {error}") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
