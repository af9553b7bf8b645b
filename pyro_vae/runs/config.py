"""The configuration of a pair: its sections, and the data, programs and arguments of ``fit`` that are made of it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from pyro_vae.data import Actions, Data, Tokens, load_data
from pyro_vae.data.registry import find_source, source_options, sources
from pyro_vae.errors import InputError
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.programs.context import X
from pyro_vae.programs.inside import connect
from pyro_vae.programs.program import as_programs
from pyro_vae.runs.section_parser import NUM_ACTIONS, SHAPE, SectionParser
from pyro_vae.runs.sections import check_sections, instantiate, parse_sections
from pyro_vae.runtime import private_seed
from pyro_vae.training import fit
from pyro_vae.training.batches import derived_seed
from pyro_vae.training.checkpoint import named_weights

OF_SOME_DATA = "of some data: see `pyro-vae datasets`"  # help of options, which --help leaves out
_owners = WeakIdKeyDictionary()  # weight -> the run directory that works with it


class Function(nn.Module):
    """A plain Pyro function by its import path, in a section ``model`` or ``guide`` of a configuration.

    Args:
        path: of the function, ``my_module.model``. Where model and guide are in one module, that is run once for both;
            it is run anew for every pair that is built, so that two runs never share what it makes.

    Raises:
        InputError: if there is no such function.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        _function(path)

    def run(self, modules: dict[str, ModuleType]) -> Callable[..., Any]:
        """The function itself.

        Args:
            modules: those that were run for this pair; its own is added.
        """
        module, _, name = self.path.rpartition(".")
        if module not in modules:
            modules[module] = _run(module)
        return getattr(modules[module], name)


def check_apart(run: Path, model: nn.Module, guide: nn.Module) -> None:
    """Check that a run's pair, just built, has no weights that another run in this process works with.

    Raises:
        InputError: if it has; says what to do.
    """
    for name, value in named_weights(model, guide).items():
        other = _owners.setdefault(value, run.resolve())
        if other != run.resolve():
            raise InputError(
                f"'{name}' of {run} belongs to a module that its functions import, and {other} works with the same one "
                "in this process: use one run at a time, or make the module in the file of the functions"
            )


def with_functions(config: Mapping[str, Any], sections: tuple[str, ...]) -> dict[str, Any]:
    """A configuration in which plain functions, said by their import paths, are :class:`Function` sections.

    Args:
        config: as it was read; code that it names is imported.
        sections: those that may say a function.
    """
    found = dict(config)
    for section in sections:
        said = found.get(section)
        path = said.get("class_path") if isinstance(said, Mapping) and not said.get("init_args") else said
        if isinstance(path, str) and "." in path and _is_function(path):
            found[section] = {"class_path": f"{__name__}.{Function.__name__}", "init_args": {"path": path}}
    return found


def _run(name: str) -> ModuleType:
    """A module with globals of its own, beside the one that is imported."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None
    module, imported = importlib.util.module_from_spec(spec), sys.modules[name]
    sys.modules[name] = module  # while it is run: dataclasses look themselves up
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules[name] = imported
    return module


def _function(path: str) -> Any:
    module, _, name = path.rpartition(".")
    if not module:
        raise InputError(f"'{path}' is no import path: say my_module.{path}")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise InputError(f"'{path}': {error}") from error
    if not inspect.isfunction(found):
        raise InputError(f"'{path}' is no function: give the import path of a Pyro function, or of a class")
    if module.partition(".")[0] == "pyro_vae":
        raise InputError(f"'{path}' is a function of this package, and none of them is a model or a guide")
    return found


def _is_function(path: str) -> bool:
    try:
        return bool(_function(path))
    except InputError:  # a class, or nothing: the parser says what
        return False


PAIR_SECTIONS = ("model", "guide", "pair", "objective", "fit")
SECTIONS = ("data", *PAIR_SECTIONS, "first", "seed")
NOT_CONFIGURED = {"model", "guide", "data", "objective", "out", "resume", "described", "seed", "progress", "callbacks"}


def _given_inside(argument: str) -> set[str]:
    """What is not configured of a class that is an argument, since the data say it: of a likelihood of tokens."""
    return {f"{argument}.init_args.{fact}" for fact in ("data_shape", "num_tokens")}


PARTS: dict[str, tuple[type, set[str]]] = {  # what each section is derived from, and what of it is not configured
    "model": (nn.Module, {"data_shape", "data_mean", "num_tokens", *_given_inside("likelihood")}),
    "guide": (nn.Module, {"model", *_given_inside("encoder")}),
    "pair": (nn.Module, {"data_shape", "data_mean", "num_tokens", *_given_inside("likelihood")}),
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
    of_data = parser.groups["data"]
    of_data.description = "Options that only some data have are listed by `pyro-vae datasets`."
    for option, (kind, _) in source_options().items():  # where they are not said, a configuration has none of them
        of_data.add_argument(f"--data.{option}", type=kind, default=SUPPRESS, help=OF_SOME_DATA)
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
    parser = SectionParser(exit_on_error=False)
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
        raise InputError(f"{source} is a prior's recipe: learn it for a run, with pyro-vae train-prior DIR NAME")
    if "ranker" in config:
        raise InputError(f"{source} is a ranker's recipe: learn it for a run, with pyro-vae train-ranker DIR")
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
    """The data that a configuration names; it may say options of other data, at their defaults, as older runs' do."""
    own = find_source(config.data.name).options
    unsaid = [(name, each.default) for other in sources() for name, each in other.options.items() if name not in own]
    return load_data(**{name: value for name, value in vars(config.data).items() if (name, value) not in unsaid})


def data_facts(data: Data) -> dict[str, Any]:
    """What a class may need that only the data know, as arguments of :func:`build`."""
    tokens, actions = data.extra(Tokens), data.extra(Actions)
    return {
        "data_shape": data.train.shape,
        "data_mean": data.train.mean(),
        "num_tokens": None if tokens is None else tokens.num_tokens,
        "num_actions": None if actions is None else len(actions.names),
        "context_shapes": context_shapes(data),
    }


def context_shapes(data: Data) -> dict[str, tuple[int, ...]]:
    """Shapes of one datum's entries beside x, by name; of those that can be arguments."""
    return {name: shape for name, shape in data.train.shapes.items() if name != X and name.isidentifier()}


def shape_facts(context: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of entries as the arguments that they are handed by, ``image_shape``."""
    return {f"{name}{SHAPE}": tuple(shape) for name, shape in context.items()}


def build(
    config: Namespace,
    data_shape: tuple[int, ...],
    data_mean: Tensor | None = None,
    num_tokens: int | None = None,
    num_actions: int | None = None,
    context_shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> Experiment:
    """Construct model, guide and objective.

    What a class needs and only the data know is handed to it by name, if it has such an argument:
    ``data_shape``, ``data_mean``, ``num_tokens``, ``num_actions`` and the shapes of what the data have beside x
    (``image_shape``, of ``image``) for model and guide and whatever classes they are made of, ``model`` for the
    guide. Initial weights depend on the configuration's seed alone.

    Args:
        config: from :func:`parse_config`.
        data_shape: shape of one datum.
        data_mean: mean of the training data, shape ``data_shape`` (None when weights will be loaded).
        num_tokens: how many tokens x are made of, if they are (:class:`~pyro_vae.data.Tokens`).
        num_actions: how many actions there are, if the data have some (:class:`~pyro_vae.data.Actions`).
        context_shapes: from :func:`context_shapes`.

    Raises:
        InputError: if a class refuses its arguments, or needs the shape of what the data do not have, or the one of
            section ``pair`` lacks a method.
    """
    facts: dict[str, Any] = {"data_shape": data_shape, "data_mean": data_mean, "num_tokens": num_tokens}
    facts |= shape_facts(context_shapes) | ({} if num_actions is None else {NUM_ACTIONS: num_actions})
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
    else:
        connect(model, guide)
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
