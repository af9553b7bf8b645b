"""Parameters of ``pyro.param`` and ``pyro.module``: kept in the programs' modules, not in Pyro's global store."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from pyro_vae.errors import InputError
from pyro_vae.programs.context import unwrapped


@contextmanager
def module_parameters(*programs: Callable[..., Any]) -> Iterator[None]:
    """Let PyroModules use their own parameters, not Pyro's global store, inside this block.

    The setting is scoped, because setting it for good breaks plain ``pyro.infer.SVI`` on
    PyroModules that hold ordinary parameters (pyro-ppl 1.9.2).

    Args:
        programs: made ready for it: a PyroModule that was constructed outside the setting lacks the (here unused)
            store that Pyro enters.
    """
    for program in programs:
        make_ready(program)
    with pyro.settings.context(module_local_params=True):
        yield


def make_ready(program: Callable[..., Any]) -> None:
    """Give PyroModules of a program the store that Pyro enters, which those made outside the setting lack."""
    for module in program.modules() if isinstance(program, nn.Module) else ():
        if isinstance(module, PyroModule) and not hasattr(module._pyro_context, "param_state"):
            module._pyro_context.param_state = {"params": {}, "constraints": {}}


OF_A_MODULE = "$$$"  # in the names that pyro.module gives
STORE, ALSO_USED = "pyro_params", "also_used"  # submodules that a program's module may be given


class AlsoUsed(nn.Module):
    """What a module's program uses without owning it."""

    def __init__(self) -> None:
        super().__init__()
        self.modules_used, self.parameters_used = nn.ModuleDict(), nn.ParameterDict()
        self.awaited: dict[str, Tensor] = {}


def await_weights(program: Callable[..., Any], saved: Mapping[str, Tensor]) -> list[str]:
    """Keep saved values for parameters of a program that exist only once it has run.

    Args:
        program: a :class:`~pyro_vae.programs.program.Program`, or a module.
        saved: tensors by name within it.

    Returns:
        the names of those that were kept: of ``pyro.param`` statements, and of what the program uses without owning it.
    """
    kept = []
    own = unwrapped(program)
    module: Any = own if isinstance(own, nn.Module) else program
    for name, value in saved.items():
        place, _, key = name.partition(".")
        if module is not own:
            place, key = ("store", key) if place == "store" else ("self", name)
            owner = {"store": module.store, "self": module}[place]
        elif place == STORE and isinstance(module, nn.Module):
            owner = module._modules.setdefault(STORE, ParameterStore())
        elif place == ALSO_USED and isinstance(module, nn.Module):
            owner = module._modules.setdefault(ALSO_USED, AlsoUsed())
        else:
            continue
        if isinstance(owner, ParameterStore) or key.partition(".")[0] in ("modules_used", "parameters_used"):
            owner.awaited[key] = value
            kept.append(name)
    return kept


def take_awaited(owner: Any, prefix: str, value: nn.Module | nn.Parameter) -> None:
    """Copy what was saved of a module or parameter that has just been found."""
    ours = (
        {prefix: value}
        if isinstance(value, Tensor)
        else {f"{prefix}.{name}": tensor for name, tensor in value.state_dict(keep_vars=True).items()}
    )
    for name, tensor in ours.items():
        if name in owner.awaited:
            if owner.awaited[name].shape != tensor.shape:
                raise InputError(
                    f"the saved weight '{name}' has shape {tuple(owner.awaited[name].shape)}, the program's has "
                    f"{tuple(tensor.shape)}"
                )
            tensor.detach().copy_(owner.awaited.pop(name))


def known_store(program: Callable[..., Any]) -> ParameterStore | None:
    """The store of ``pyro.param`` values that a program has from before, if it has one."""
    if unwrapped(program) is not program:
        return program.store  # type: ignore[attr-defined]
    found = program._modules.get(STORE) if isinstance(program, nn.Module) else None
    return found if isinstance(found, ParameterStore) else None


class ParameterStore(nn.Module):
    """The ``pyro.param`` values of programs, unconstrained, as parameters of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.constraints: dict[str, Any] = {}
        self.names: dict[str, str] = {}  # name in Pyro -> name here (no dots)
        self.owned_elsewhere: set[str] = set()  # names in Pyro of parameters that a module has
        self.awaited: dict[str, Tensor] = {}  # saved values of statements that have not come yet

    def value(self, name: str) -> Tensor:
        """The constrained value."""
        unconstrained = self._parameters[self.names[name]]
        assert unconstrained is not None
        value: Any = transform_to(self.constraints[name])(unconstrained)
        if value is unconstrained:
            value = value.view_as(value)  # Pyro's weak reference, which no file can hold, is not for the parameter
        value.unconstrained = weakref.ref(unconstrained)
        return value

    def join(self, other: ParameterStore) -> None:
        """Take over another store's values.

        Raises:
            InputError: if both have a value of one name, and they differ.
        """
        for name, key in other.names.items() if other is not self else ():
            value: Any = other._parameters[key]
            if name not in self.names:
                self.names[name], self.constraints[name] = key, other.constraints[name]
                self._parameters[key] = value
            elif not torch.equal(self.get_parameter(self.names[name]), value):
                raise InputError(
                    f"model and guide were trained apart, and each has a pyro.param '{name}' of its own: in one pair a "
                    "name is one parameter; give one of them another name"
                )
        self.owned_elsewhere |= other.owned_elsewhere
        self.awaited |= other.awaited

    def add(self, name: str, initial: Tensor, constraint: Any) -> None:
        """Make a parameter of a first value.

        Raises:
            InputError: if the value is outside the constraint.
        """
        if not bool(torch.as_tensor(constraint.check(initial)).all()):
            raise InputError(f"pyro.param '{name}': its first value is outside its constraint, {constraint}")
        key = name.replace(".", "__")
        while key in self._parameters or hasattr(nn.Module, key):
            key += "_"
        with torch.no_grad():
            unconstrained = transform_to(constraint).inv(initial.detach())
        self.names[name], self.constraints[name] = key, constraint
        self.register_parameter(key, nn.Parameter(unconstrained.contiguous().clone()))
        take_awaited(self, key, self._parameters[key])


class ParamStatements(Messenger):
    """Answers ``pyro.param`` and ``pyro.module`` statements from a store, which stands in for Pyro's global one.

    A parameter that a module owns (of ``pyro.module``, or given to ``pyro.param`` as its first value) is used as it is.
    """

    def __init__(self, store: ParameterStore) -> None:
        super().__init__()
        self.store = store

    def _pyro_param(self, msg: Any) -> None:
        if msg["done"] or getattr(msg["fn"], "__func__", None) is not ParamStoreDict.get_param:
            return  # a PyroModule's own parameter, which it has read already
        name, *initial = msg["args"]
        constraint = msg["kwargs"].get("constraint", constraints.real)
        if name not in self.store.names:
            value = initial[0] if initial else None
            if isinstance(value, nn.Parameter) and constraint is constraints.real:
                self.store.owned_elsewhere.add(name)
            if name in self.store.owned_elsewhere or OF_A_MODULE in name:
                msg["value"], msg["done"] = value, True
                return
            if value is None:
                raise InputError(f"pyro.param '{name}' has no first value: pyro.param('{name}', torch.tensor(...))")
            self.store.add(name, value() if callable(value) and not isinstance(value, Tensor) else value, constraint)
        msg["value"], msg["done"] = self.store.value(name), True
