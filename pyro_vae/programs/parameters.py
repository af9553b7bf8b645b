"""Parameters of ``pyro.param`` and ``pyro.module``, kept in the programs' modules; what programs use beside them."""

from __future__ import annotations

import dis
import functools
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_vae.errors import InputError
from pyro_vae.programs import baselines
from pyro_vae.programs.context import unwrapped
from pyro_vae.programs.inside import guides_of


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
            # a Program has a store already, which its module then shares
            owner = module._modules.setdefault(STORE, program.store if program is not own else ParameterStore())
        elif place == ALSO_USED and isinstance(module, nn.Module):
            owner = module._modules.setdefault(ALSO_USED, AlsoUsed())
        else:
            continue
        if isinstance(owner, ParameterStore) or key.partition(".")[0] in ("modules_used", "parameters_used"):
            owner.awaited[key] = value  # pyright: ignore[reportIndexIssue]
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


LIBRARIES = {"torch", "pyro", "pyro_vae", "numpy"}  # their functions hold no parameters of the user's
DEPTH = 6  # of the objects, one in another, among which a name is looked for


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


def adopt_what_is_used(model: Any, guide: Any, batch: Mapping[str, Tensor]) -> list[tuple[nn.Module, bool]]:
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
    owners = [model, guide, *guides_of(model)]  # of a prior made of a guide, that guide's weights are the guide's
    for program, who in ((guide, "guide"), (model, "model")):
        calls = _Calls(owners, device)
        run = program if trace is None else poutine.replay(program, trace=trace)
        with calls, torch.enable_grad():
            trace = poutine.trace(run).get_trace(**batch)
            sites = [s for s in trace.nodes.values() if s["type"] == "sample"]
            leaves = leaves_of([*densities_of(trace), *(value for s in sites for value in baselines.networks(s))])
        found += calls.modes
        missing: list[Any] = [module for module in calls.outermost() if _has_state(module)]
        covered = {id(p) for owner in owners for p in owner.parameters()} | {id(v) for v in batch.values()}
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

    def __init__(self, owners: list[nn.Module], device: torch.device) -> None:
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


def densities_of(trace: poutine.Trace, *, params: bool = True) -> list[Tensor]:
    """The log-densities, values and scales of a trace's sites; and, if wanted, what ``pyro.param`` gave."""
    roots: list[Tensor] = []
    for site in trace.nodes.values():
        if site["type"] == "param" and not params:
            continue
        if site["type"] == "sample":
            try:
                roots.append(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]))
            except (ValueError, NotImplementedError, RuntimeError):
                pass  # told by the checks of data and shapes, which come next
            scale = site["scale"]
            roots += [scale] if isinstance(scale, Tensor) else []
        if isinstance(site.get("value"), Tensor):
            roots.append(site["value"])
    return roots


def leaves_of(roots: Iterable[Tensor]) -> list[Tensor]:
    """The tensors to be trained in the graph of others, in a fixed order."""
    roots = list(roots)
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
        if str(value.__module__).partition(".")[0] not in LIBRARIES:
            items = names_used(value) | {"wrapped": getattr(value, "__wrapped__", None)}
    elif not isinstance(value, (Tensor, type, str, bytes, int, float)) and not inspect.ismodule(value):
        slots = {name: getattr(value, name) for name in getattr(type(value), "__slots__", ()) if hasattr(value, name)}
        items = {**slots, **getattr(value, "__dict__", {})}
        if isinstance(value, nn.Module):
            items = items | {"forward": type(value).forward}
    for name, item in list(items.items())[:1000]:
        yield "".join(c if c.isalnum() else "_" for c in str(name)).strip("_"), item
