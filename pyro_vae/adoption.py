"""What programs use, found by running them: modules and parameters that they own by no name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_vae.errors import InputError

if TYPE_CHECKING:
    from pyro_vae.program import Program

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
    from pyro_vae.program import _LIBRARIES, names_used

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
