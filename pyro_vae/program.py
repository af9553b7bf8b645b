"""Any Pyro program, module or plain function, as an ``nn.Module`` that owns its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import CodeType
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.context import Context

Batch = Mapping[str, Tensor]


X = "x"  # the batch's entry that is the data
NEVER_DATA = ("num_samples", "y", "mask")  # arguments of these names are never handed the data


def accepted_arguments(program: Callable[..., Any]) -> set[str] | None:
    """The keyword arguments a program takes, or None if it takes any (``**kwargs``)."""
    parameters = _parameters(program).values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.kind in _NAMED}


def data_argument(program: Callable[..., Any], given: Iterable[str] = ()) -> str | None:
    """The argument that a program is handed the batch's ``x`` by.

    The one called x; else the first positional one without a default, or with the default None, that is no other
    entry's, no declared context, and not ``num_samples``, ``y`` or ``mask``. (Beside ``**kwargs``, which
    take an x, only one without a default.)

    Args:
        program: a module, a function, or a :class:`Program` of one.
        given: the names of the batch's entries, which are handed to the arguments of the same names.

    Returns:
        its name; None if the program takes no data.
    """
    parameters = _parameters(program)
    if X in parameters:
        return X
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    others = {*given, *NEVER_DATA, *declared_context(program)}
    for name, p in parameters.items():
        fits = p.default is p.empty or (p.default is None and not takes_any)
        if p.kind is p.POSITIONAL_OR_KEYWORD and name not in others and fits:
            return name
    return X if takes_any else None


def required_arguments(program: Callable[..., Any], given: Iterable[str] = ()) -> list[str]:
    """The context that a program cannot do without: its arguments without a default, but for its data's.

    Args:
        program, given: as for :func:`data_argument`.
    """
    return [name for name in required_names(program) if name not in (data_argument(program, given), "num_samples")]


def required_names(program: Callable[..., Any]) -> list[str]:
    """A program's arguments without a default."""
    return [n for n, p in _parameters(program).items() if p.kind in _NAMED and p.default is p.empty]


def needed_to_generate(program: Callable[..., Any], given: Iterable[str] = ()) -> list[str]:
    """The context that a program cannot be sampled without: what it requires, and what it declares and may be None.

    A model whose present prior is conditional on labels has ``y=None`` in its signature and declares y at the same
    time: its densities can be had without the caller's thinking of y (the batch has it), its samples cannot.

    Args:
        program, given: as for :func:`data_argument`.
    """
    required = required_arguments(program, given)
    optional = {name for name, p in _parameters(program).items() if p.default is None}
    free = optional - {X, *required}
    declared = [name for name, context in declared_context(program).items() if name in free and not context.drawn]
    return [*required, *declared]


def takes(program: Callable[..., Any], argument: str) -> bool:
    """Whether a program has an argument of this name."""
    names = accepted_arguments(program)
    return names is None or argument in names


def declared_context(program: Callable[..., Any]) -> dict[str, Context]:
    """What a program says of its context, by argument name: its attribute ``context``, if it has one."""
    target = program.program if isinstance(program, Program) else program
    declared = getattr(target, "context", None)
    return dict(declared) if isinstance(declared, Mapping) else {}


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _parameters(program: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    target = program.program if isinstance(program, Program) else program
    return inspect.signature(target.forward if isinstance(target, nn.Module) else target).parameters


def real_type(*programs: nn.Module) -> torch.dtype | None:
    """The type that data must be given to programs in: float64, if parameters are; None: as they come."""
    types = {parameter.dtype for program in programs for parameter in program.parameters()}
    return torch.float64 if torch.float64 in types else None


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
        for module in program.modules() if isinstance(program, nn.Module) else ():
            if isinstance(module, PyroModule) and not hasattr(module._pyro_context, "param_state"):
                module._pyro_context.param_state = {"params": {}, "constraints": {}}
    with pyro.settings.context(module_local_params=True):
        yield


class Program(nn.Module):
    """A Pyro program that is called with a whole batch and owns what it trains.

    ``Program(f)(**batch)`` runs ``f`` with those entries of the batch that it has arguments for, so a
    program without a ``y`` argument is never handed ``y``; the data, ``x``, may have another name there
    (:func:`data_argument`). A PyroModule keeps its own parameters. A plain
    function's are found where it keeps them: modules that it refers to (globals or closure, itself or through
    its helper functions) become submodules, and ``pyro.param`` values become parameters of this module at the
    first call, in a private store. Pyro's global parameter store is neither read nor written.

    Args:
        program: a module or a function with Pyro statements.
        store: the private store of ``pyro.param`` values, shared by a model and its guide
            (:func:`as_programs`); of two modules, None.
    """

    def __init__(self, program: Callable[..., Any], store: _ParameterStore | None = None) -> None:
        super().__init__()
        self._arguments = accepted_arguments(program)
        self.store = store if isinstance(program, nn.Module) else (store or _ParameterStore())
        self.program = program
        if isinstance(program, nn.Module):
            self._call, self._setting_matters = _without_param_statements(program)
        else:
            self.modules_used, self._call = nn.ModuleDict(_modules_of(program)), program

    def forward(self, **batch: Any) -> Any:
        """Run the program on the entries of ``batch`` that it accepts."""
        kwargs = self._keywords(batch)
        if self.store is not None:
            used = [self.program] if isinstance(self.program, nn.Module) else self.modules_used.values()
            with module_parameters(*used), self.store.active():
                return self._call(**kwargs)
        if not self._setting_matters:
            return self._call(**kwargs)
        with module_parameters(self.program):
            return self._call(**kwargs)

    def _keywords(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The entries that the program has arguments for, and x by the name of its data argument."""
        known = self._arguments
        if X in batch and (known is None or X not in known):
            name = data_argument(self.program, batch)
            batch = batch if name is None else {name if k == X else k: v for k, v in batch.items()}
        return batch if known is None else {k: v for k, v in batch.items() if k in known}


def _without_param_statements(program: nn.Module) -> tuple[Callable[..., Any], bool]:
    """How to call a module so that reading its parameters costs no Pyro statements; whether Pyro's setting matters.

    ``PyroModule.__call__`` makes each read of a parameter, and of a submodule's parameters, a ``pyro.param`` statement:
    nearly half the handlers' time in a step. Only random attributes (``PyroSample``) need that call.
    """
    pyro_modules = [m for m in program.modules() if isinstance(m, PyroModule)]
    if program not in pyro_modules or any(m._pyro_samples for m in pyro_modules):
        return program.__call__, bool(pyro_modules)
    return partial(nn.Module.__call__, program), len(pyro_modules) > 1


class _ParameterStore(nn.Module):
    """The ``pyro.param`` values of plain functions, as parameters of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.constraints: dict[str, Any] = {}
        self.names: dict[str, str] = {}  # name in Pyro -> name here (no dots)

    @contextmanager
    def active(self) -> Iterator[None]:
        params = {name: self._parameters[key] for name, key in self.names.items()}
        state = {"params": params, "constraints": dict(self.constraints)}
        with pyro.get_param_store().scope(state) as scope:
            yield
        for name, value in scope["params"].items():
            if name not in self.names and "$$$" not in name:  # a$$$b: from pyro.module, owned there
                key = name.replace(".", "__")
                self.names[name] = key
                self.constraints[name] = scope["constraints"][name]
                self.register_parameter(key, nn.Parameter(value.detach().clone()))


def _modules_of(function: Callable[..., Any]) -> dict[str, nn.Module]:
    """The modules that a plain function works with, by name.

    Those that it, or a function that it refers to, names as a global or from a closure, also in lists and dicts; the
    bound arguments of a ``functools.partial``; the object of a bound method, or that object's attributes.
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()

    def visit(name: str, value: Any) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            while name in found or hasattr(nn.ModuleDict, name):
                name += "_"
            found[name] = value
        elif isinstance(value, (list, tuple)):
            visit_all({f"{name}_{i}": v for i, v in enumerate(value)})
        elif isinstance(value, dict):
            visit_all({f"{name}_{k}".replace(".", "_"): v for k, v in value.items()})
        elif isinstance(value, partial):
            visit_all({name: value.func, **value.keywords})
            visit(name, value.args)
        elif inspect.ismethod(value):
            owner = value.__self__
            visit_all({name: owner} if isinstance(owner, nn.Module) else dict(getattr(owner, "__dict__", {})))
            visit(name, value.__func__)
        elif inspect.isfunction(value) and str(value.__module__).partition(".")[0] not in _LIBRARIES:
            visit_all(names_used(value))
            visit(name, getattr(value, "__wrapped__", None))

    def visit_all(values: dict[str, Any]) -> None:
        for name, value in values.items():
            visit(name, value)

    visit("module", function)
    return found


_LIBRARIES = {"torch", "pyro", "pyro_vae", "numpy"}  # their functions hold no parameters of the user's


def names_used(function: Any) -> dict[str, Any]:
    """What a function's code refers to by a global or closed-over name, nested functions' code included."""

    def names(code: CodeType) -> Iterator[str]:
        yield from code.co_names
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from names(constant)

    space = function.__globals__
    used = {name: space[name] for name in names(function.__code__) if name in space}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a name that is not bound yet
            used[name] = cell.cell_contents
    return used


def as_programs(model: Callable[..., Any], guide: Callable[..., Any]) -> tuple[Program, Program]:
    """Wrap a model and its guide, which share one private store; Programs are returned as they are.

    The store is a module's as well, if the other is a plain function: a guide may run the model.
    """
    store = next((p.store for p in (model, guide) if isinstance(p, Program) and p.store), None)
    if store is None and not all(isinstance(p, nn.Module) for p in (model, guide)):
        store = _ParameterStore()
    wrapped = [p if isinstance(p, Program) else Program(p, store) for p in (model, guide)]
    return wrapped[0], wrapped[1]


def prime(model: Program, guide: Program, batch: Batch) -> tuple[poutine.Trace, poutine.Trace]:
    """Run both programs once, so that every parameter exists; the random state is left as it was.

    Returns:
        the model's and the guide's trace on the batch, for looking at their sites.
    """
    devices = sorted({v.device.index for v in batch.values() if v.device.type == "cuda"})
    modes = [(module, module.training) for program in (model, guide) for module in program.modules()]
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        model.eval(), guide.eval()  # batch statistics are not to move because somebody looked
        guide_trace = poutine.trace(guide).get_trace(**batch)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**batch)
    for module, training in modes:
        module.training = training
    return model_trace, guide_trace
