"""Plain functions as the programs of a configuration: ``model: my_module.model``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from pyro_vae.errors import InputError
from pyro_vae.inference.weights import named_weights

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
