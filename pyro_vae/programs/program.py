"""Any Pyro program, module or plain function, as an ``nn.Module`` that owns the parameters that it uses."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import CodeType
from typing import Any

import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_vae.errors import InputError, unknown
from pyro_vae.programs.context import X, accepted_arguments, data_argument
from pyro_vae.programs.parameters import (
    ALSO_USED,
    STORE,
    AlsoUsed,
    ParameterStore,
    ParamStatements,
    known_store,
    make_ready,
    module_parameters,
    take_awaited,
)
from pyro_vae.runtime import same_random_state

Batch = Mapping[str, Tensor]


def real_type(*programs: nn.Module) -> torch.dtype | None:
    """The type that floating-point data must be given to programs in: that of their parameters.

    float64 if any of them is; float32 if they are; None, as they come, if they have none (yet), or of other types.
    """
    types = {p.dtype for program in programs for p in program.parameters() if p.is_floating_point()}
    if torch.float64 in types:
        return torch.float64
    return torch.float32 if types == {torch.float32} else None


class Program(nn.Module):
    """A Pyro program that is called with a whole batch and owns what it trains.

    ``Program(f)(**batch)`` runs ``f`` with those entries of the batch that it has arguments for, so a
    program without a ``y`` argument is never handed ``y``; the data, ``x``, may have another name there
    (:func:`data_argument`). A PyroModule keeps its own parameters. A plain
    function's are found where it keeps them: modules that it refers to (globals or closure, itself or through
    its helper functions) become submodules. Whatever else a program turns out to use when it is run first
    (:func:`prime`), as modules behind objects of one's own and bare parameters, is adopted then
    (:func:`adopt_what_is_used`). ``pyro.param`` values become parameters in a private store; a module keeps it as its
    submodule ``pyro_params``. Pyro's global parameter store is neither read nor written.

    Args:
        program: a module or a function with Pyro statements.
        store: the private store of ``pyro.param`` values, shared by a model and its guide
            (:func:`as_programs`).
    """

    is_program = True

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
        make_ready(self)

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
            owner = self.program._modules.setdefault(ALSO_USED, AlsoUsed())
        place = owner.modules_used if isinstance(value, nn.Module) else owner.parameters_used
        name = name.replace(".", "_")
        while name in place or hasattr(nn.ModuleDict, name) or hasattr(nn.ParameterDict, name):
            name += "_"
        place[name] = value
        kind = "modules_used" if isinstance(value, nn.Module) else "parameters_used"
        take_awaited(owner, f"{kind}.{name}", value)
        make_ready(self)

    def _keywords(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The entries that the program has arguments for, and x by the name of its data argument."""
        known = self._arguments
        if X in batch and (known is None or X not in known):
            name = data_argument(self.program, batch)
            batch = batch if name is None else {name if k == X else k: v for k, v in batch.items()}
        return batch if known is None else {k: v for k, v in batch.items() if k in known}


def _without_param_statements(program: nn.Module) -> Callable[..., Any]:
    """How to call a module so that reading its parameters costs no Pyro statements.

    ``PyroModule.__call__`` makes each read of a parameter, and of a submodule's parameters, a ``pyro.param`` statement:
    nearly half the handlers' time in a step. Only random attributes (``PyroSample``) need that call.
    """
    pyro_modules = [m for m in program.modules() if isinstance(m, PyroModule)]
    if program not in pyro_modules or any(m._pyro_samples for m in pyro_modules):
        return program.__call__
    return partial(nn.Module.__call__, program)


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


@contextmanager
def evaluation_mode(*programs: nn.Module) -> Iterator[list[tuple[nn.Module, bool]]]:
    """Programs in evaluation mode, in which batch statistics, codebooks and averages do not move.

    Yields:
        the modes that modules are put back to; a block that lets programs own further modules adds those.
    """
    modes = [(module, module.training) for program in programs for module in program.modules()]
    for program in programs:
        program.eval()
    try:
        yield modes
    finally:
        for module, training in modes:
            module.training = training


def prime(model: Program, guide: Program, batch: Batch) -> tuple[poutine.Trace, poutine.Trace]:
    """Run both programs once, so that every parameter exists and is owned; the random state is left as it was.

    Returns:
        the model's and the guide's trace on the batch, for looking at their sites.
    """
    with same_random_state(*(v.device for v in batch.values())), evaluation_mode(model, guide) as modes:
        modes += [] if model.explored and guide.explored else adopt_what_is_used(model, guide, batch)
        model.explored = guide.explored = True
        _check_nothing_awaited(model, guide)
        with torch.no_grad():
            guide_trace = poutine.trace(guide).get_trace(**batch)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**batch)
    return model_trace, guide_trace


def _check_nothing_awaited(model: Program, guide: Program) -> None:
    for program, who in ((model, "model"), (guide, "guide")):
        for owner in program.modules():
            awaited = getattr(owner, "awaited", None)
            if isinstance(owner, (Program, ParameterStore, AlsoUsed)) and awaited:
                raise InputError(
                    f"the {who}'s weights that were loaded hold '{next(iter(awaited))}', which its program does not "
                    "use: they were saved from another program"
                )


DEPTH = 6  # of the objects, one in another, among which a name is looked for


def adopt_what_is_used(model: Program, guide: Program, batch: Mapping[str, Tensor]) -> list[tuple[nn.Module, bool]]:
    """Run a guide and its model once, and let them own what they used and nobody did: then it is trained and saved.

    What they used is seen by itself: modules by their calls, parameters in the graph of the sites' log-densities and
    values. So it does not matter how a program came by them: by an object's attribute, a dataclass, a registry, a
    closure. Modules found are put into evaluation mode for the run, and on the batch's device.

    Args:
        model, guide: programs in evaluation mode.
        batch: data.

    Returns:
        the modules that were adopted, with the modes that they were in.

    Raises:
        InputError: for a tensor that requires a gradient and is no parameter of anything.
    """
    device = next((value.device for value in batch.values()), torch.device("cpu"))
    found: list[tuple[nn.Module, bool]] = []
    trace = None
    for program, who in ((guide, "guide"), (model, "model")):
        calls = _Calls([model, guide], device)
        run = program if trace is None else poutine.replay(program, trace=trace)
        with calls, torch.enable_grad():
            trace = poutine.trace(run).get_trace(**batch)
            leaves = _leaves(trace)
        found += calls.modes
        missing: list[Any] = [module for module in calls.outermost() if _has_state(module)]
        covered = {id(p) for p in (*model.parameters(), *guide.parameters())} | {id(v) for v in batch.values()}
        covered |= {id(p) for module in missing for p in module.parameters()}
        for leaf in leaves:
            if id(leaf) not in covered:
                if not isinstance(leaf, nn.Parameter):
                    raise InputError(
                        f"the {who} uses a tensor {tuple(leaf.shape)} that requires a gradient and is no parameter, so "
                        "that nobody would train or save it: make it a torch.nn.Parameter or a pyro.param, or detach it"
                    )
                missing.append(leaf)
        names = _names(program.program, {id(value) for value in missing}) if missing else {}
        for i, value in enumerate(missing):
            program.adopt(names.get(id(value), f"{type(value).__name__.lower()}_{i}"), value)
    return found


class _Calls:
    """Sees which modules are called inside a block that nobody owns, and makes them ready.

    Attributes:
        modes: those modules and all inside them, with the modes that they were in.
    """

    def __init__(self, owners: list[Program], device: torch.device) -> None:
        self.known = {id(module) for owner in owners for module in owner.modules()}
        self.device = device
        self.modes: list[tuple[nn.Module, bool]] = []
        self._called: list[nn.Module] = []

    def __enter__(self) -> None:
        self._handle = register_module_forward_pre_hook(self._see)

    def __exit__(self, *error: object) -> None:
        self._handle.remove()

    def outermost(self) -> list[nn.Module]:
        """The modules that are inside no other one of them."""
        inside = {id(m) for module in self._called for m in module.modules() if m is not module}
        return [module for module in self._called if id(module) not in inside]

    def _see(self, module: nn.Module, _: object) -> None:
        if id(module) in self.known:
            return
        new = [m for m in module.modules() if id(m) not in self.known]
        self.modes += [(m, m.training) for m in new]
        self.known |= {id(m) for m in new}
        self._called.append(module)
        module.to(self.device).eval()


def _has_state(module: nn.Module) -> bool:
    """Whether a module's mode, weights or statistics matter: not those of an activation."""
    return any(True for _ in (*module.parameters(), *module.buffers())) or any(
        isinstance(m, nn.modules.dropout._DropoutNd) for m in module.modules()
    )


def _leaves(trace: poutine.Trace) -> list[Tensor]:
    """The tensors that are to be trained, in the graph of what a trace's sites are made of; in a fixed order."""
    roots: list[Tensor] = []
    for site in trace.nodes.values():
        if site["type"] == "sample":
            try:
                roots.append(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]))
            except (ValueError, NotImplementedError, RuntimeError):
                pass  # told by the checks of data and shapes, which come next
            scale = site["scale"]
            roots += [scale] if isinstance(scale, Tensor) else []
        if isinstance(site.get("value"), Tensor):
            roots.append(site["value"])
    leaves: dict[int, Tensor] = {id(t): t for t in roots if t.requires_grad and t.grad_fn is None}
    stack, known = [t.grad_fn for t in roots if t.grad_fn is not None], set()
    while stack:
        node: Any = stack.pop()
        if node in known:
            continue
        known.add(node)
        if hasattr(node, "variable"):
            leaves[id(node.variable)] = node.variable
        stack += [following for following, _ in node.next_functions if following is not None]
    return list(leaves.values())


def _names(program: Any, wanted: set[int]) -> dict[int, str]:
    """What a program would call some of its objects: the path of attributes, entries and variables to each."""
    names: dict[int, str] = {}
    seen: set[int] = set()
    level: list[tuple[str, Any]] = [("", program)]
    for _ in range(DEPTH):
        following = []
        for path, value in level:
            if id(value) in wanted and id(value) not in names:
                names[id(value)] = path or type(value).__name__.lower()
            if id(value) not in seen:
                seen.add(id(value))
                following += [(f"{path}_{name}" if path else name, item) for name, item in _inside(value)]
        level = following
    return names


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object refers to, with names of letters, digits and underscores."""

    items: Mapping[Any, Any] = {}
    if isinstance(value, Mapping):
        items = value
    elif isinstance(value, (list, tuple)):
        items = dict(enumerate(value))
    elif isinstance(value, functools.partial):
        items = {"function": value.func, "arguments": value.args, **value.keywords}
    elif inspect.ismethod(value):
        items = {"self": value.__self__, "function": value.__func__}
    elif inspect.isfunction(value):
        if str(value.__module__).partition(".")[0] not in _LIBRARIES:
            items = names_used(value) | {"wrapped": getattr(value, "__wrapped__", None)}
    elif not isinstance(value, (Tensor, type, str, bytes, int, float)) and not inspect.ismodule(value):
        slots = {name: getattr(value, name) for name in getattr(type(value), "__slots__", ()) if hasattr(value, name)}
        items = {**slots, **getattr(value, "__dict__", {})}
        if isinstance(value, nn.Module):
            items = items | {"forward": type(value).forward}
    for name, item in list(items.items())[:1000]:
        yield "".join(c if c.isalnum() else "_" for c in str(name)).strip("_"), item
