"""Any Pyro program, module or plain function, as an ``nn.Module`` that owns its parameters."""

from __future__ import annotations

import dis
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import CodeType
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from pyro_vae.adoption import adopt_what_is_used
from pyro_vae.context import Context
from pyro_vae.errors import InputError, unknown

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
        _make_ready(program)
    with pyro.settings.context(module_local_params=True):
        yield


def _make_ready(program: Callable[..., Any]) -> None:
    for module in program.modules() if isinstance(program, nn.Module) else ():
        if isinstance(module, PyroModule) and not hasattr(module._pyro_context, "param_state"):
            module._pyro_context.param_state = {"params": {}, "constraints": {}}


class Program(nn.Module):
    """A Pyro program that is called with a whole batch and owns what it trains.

    ``Program(f)(**batch)`` runs ``f`` with those entries of the batch that it has arguments for, so a
    program without a ``y`` argument is never handed ``y``; the data, ``x``, may have another name there
    (:func:`data_argument`). A PyroModule keeps its own parameters. A plain
    function's are found where it keeps them: modules that it refers to (globals or closure, itself or through
    its helper functions) become submodules. Whatever else a program turns out to use when it is run first
    (:func:`prime`), as modules behind objects of one's own and bare parameters, is adopted then
    (:mod:`pyro_vae.adoption`). ``pyro.param`` values become parameters in a private store; a module keeps it as its
    submodule ``pyro_params``. Pyro's global parameter store is neither read nor written.

    Args:
        program: a module or a function with Pyro statements.
        store: the private store of ``pyro.param`` values, shared by a model and its guide
            (:func:`as_programs`).
    """

    def __init__(self, program: Callable[..., Any], store: ParameterStore | None = None) -> None:
        super().__init__()
        self._arguments = accepted_arguments(program)
        self.store = store or known_store(program) or ParameterStore()
        self.program = program
        self.modules_used = nn.ModuleDict({} if isinstance(program, nn.Module) else _modules_of(program))
        self.parameters_used = nn.ParameterDict()
        self.awaited: dict[str, Tensor] = {}  # saved weights of what has not been found yet
        self.explored = False  # whether all that it uses has been looked for
        self._call = _without_param_statements(program) if isinstance(program, nn.Module) else program
        _make_ready(self)

    def forward(self, **batch: Any) -> Any:
        """Run the program on the entries of ``batch`` that it accepts."""
        kwargs = self._keywords(batch)
        with module_parameters(), ParamStatements(self.store):
            result = self._call(**kwargs)
        if self.store.names and isinstance(self.program, nn.Module) and STORE not in self.program._modules:
            self.program._modules[STORE] = self.store
        return result

    def share(self, store: ParameterStore) -> None:
        """Take ``pyro.param`` values from this store from now on."""
        self.store = store
        if isinstance(self.program, nn.Module) and STORE in self.program._modules:
            self.program._modules[STORE] = store

    def param(self, name: str) -> Tensor:
        """The value of a ``pyro.param`` statement as the program sees it, constrained and detached.

        Args:
            name: what the statement says, ``pyro.param(name, ...)``.

        Raises:
            InputError: for a name that no statement has had.
        """
        if name not in self.store.names:
            raise unknown("pyro.param", name, self.store.names)
        return self.store.value(name).detach()

    def adopt(self, name: str, value: nn.Module | nn.Parameter) -> None:
        """Own a module or a parameter that the program uses."""
        owner: Any = self
        if isinstance(self.program, nn.Module):  # what is trained goes where the module goes: files, copies
            owner = self.program._modules.setdefault(ALSO_USED, _AlsoUsed())
        place = owner.modules_used if isinstance(value, nn.Module) else owner.parameters_used
        name = name.replace(".", "_")
        while name in place or hasattr(nn.ModuleDict, name) or hasattr(nn.ParameterDict, name):
            name += "_"
        place[name] = value
        kind = "modules_used" if isinstance(value, nn.Module) else "parameters_used"
        _take_awaited(owner, f"{kind}.{name}", value)
        _make_ready(self)

    def _keywords(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The entries that the program has arguments for, and x by the name of its data argument."""
        known = self._arguments
        if X in batch and (known is None or X not in known):
            name = data_argument(self.program, batch)
            batch = batch if name is None else {name if k == X else k: v for k, v in batch.items()}
        return batch if known is None else {k: v for k, v in batch.items() if k in known}


OF_A_MODULE = "$$$"  # in the names that pyro.module gives
STORE, ALSO_USED = "pyro_params", "also_used"  # submodules that a program's module may be given


class _AlsoUsed(nn.Module):
    """What a module's program uses without owning it."""

    def __init__(self) -> None:
        super().__init__()
        self.modules_used, self.parameters_used = nn.ModuleDict(), nn.ParameterDict()
        self.awaited: dict[str, Tensor] = {}


def await_weights(program: Callable[..., Any], saved: Mapping[str, Tensor]) -> list[str]:
    """Keep saved values for parameters of a program that exist only once it has run.

    Args:
        program: a Program, or a module.
        saved: tensors by name within it.

    Returns:
        the names of those that were kept: of ``pyro.param`` statements, and of what the program uses without owning it.
    """
    kept = []
    module = program.program if isinstance(program, Program) and isinstance(program.program, nn.Module) else program
    for name, value in saved.items():
        place, _, key = name.partition(".")
        if isinstance(module, Program):
            place, key = ("store", key) if place == "store" else ("self", name)
            owner = {"store": module.store, "self": module}[place]
        elif place == STORE and isinstance(module, nn.Module):
            owner = module._modules.setdefault(STORE, ParameterStore())
        elif place == ALSO_USED and isinstance(module, nn.Module):
            owner = module._modules.setdefault(ALSO_USED, _AlsoUsed())
        else:
            continue
        if isinstance(owner, ParameterStore) or key.partition(".")[0] in ("modules_used", "parameters_used"):
            owner.awaited[key] = value
            kept.append(name)
    return kept


def _take_awaited(owner: Any, prefix: str, value: nn.Module | nn.Parameter) -> None:
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
    if isinstance(program, Program):
        return program.store
    found = program._modules.get(STORE) if isinstance(program, nn.Module) else None
    return found if isinstance(found, ParameterStore) else None


def _without_param_statements(program: nn.Module) -> Callable[..., Any]:
    """How to call a module so that reading its parameters costs no Pyro statements.

    ``PyroModule.__call__`` makes each read of a parameter, and of a submodule's parameters, a ``pyro.param`` statement:
    nearly half the handlers' time in a step. Only random attributes (``PyroSample``) need that call.
    """
    pyro_modules = [m for m in program.modules() if isinstance(m, PyroModule)]
    if program not in pyro_modules or any(m._pyro_samples for m in pyro_modules):
        return program.__call__
    return partial(nn.Module.__call__, program)


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
        _take_awaited(self, key, self._parameters[key])


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
        for instruction in dis.get_instructions(code):  # code.co_names has the names of attributes as well
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                yield instruction.argval
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

    Raises:
        InputError: if both bring ``pyro.param`` values of the same name from before, trained apart.
    """
    stores = [store for store in map(known_store, (model, guide)) if store is not None]
    if len(stores) == 2:
        stores[0].join(stores[1])
    store = stores[0] if stores else ParameterStore()
    wrapped = [p if isinstance(p, Program) else Program(p, store) for p in (model, guide)]
    for program in wrapped:
        program.share(store)
    return wrapped[0], wrapped[1]


def prime(model: Program, guide: Program, batch: Batch) -> tuple[poutine.Trace, poutine.Trace]:
    """Run both programs once, so that every parameter exists and is owned; the random state is left as it was.

    Returns:
        the model's and the guide's trace on the batch, for looking at their sites.
    """
    devices = sorted({v.device.index for v in batch.values() if v.device.type == "cuda"})
    modes = [(module, module.training) for program in (model, guide) for module in program.modules()]
    with torch.random.fork_rng(devices=devices):
        model.eval(), guide.eval()  # batch statistics are not to move because somebody looked
        found = [] if model.explored and guide.explored else adopt_what_is_used(model, guide, batch)
        model.explored = guide.explored = True
        _check_nothing_awaited(model, guide)
        with torch.no_grad():
            guide_trace = poutine.trace(guide).get_trace(**batch)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**batch)
    for module, training in (*modes, *found):
        module.training = training
    return model_trace, guide_trace


def _check_nothing_awaited(model: Program, guide: Program) -> None:
    for program, who in ((model, "model"), (guide, "guide")):
        for owner in program.modules():
            awaited = getattr(owner, "awaited", None)
            if isinstance(owner, (Program, ParameterStore, _AlsoUsed)) and awaited:
                raise InputError(
                    f"the {who}'s weights that were loaded hold '{next(iter(awaited))}', which its program does not "
                    "use: they were saved from another program"
                )
