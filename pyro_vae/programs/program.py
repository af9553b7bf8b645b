"""Any Pyro program, module or plain function, as an ``nn.Module`` that owns the parameters that it uses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.errors import InputError, unknown
from pyro_vae.programs.context import X, accepted_arguments, data_argument
from pyro_vae.programs.inside import connect
from pyro_vae.programs.once import told_or_run
from pyro_vae.programs.parameters import (
    ALSO_USED,
    LIBRARIES,
    STORE,
    AlsoUsed,
    ParameterStore,
    ParamStatements,
    adopt_what_is_used,
    known_store,
    make_ready,
    module_parameters,
    names_used,
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

    ``Program(f)(**batch)`` runs ``f`` with those entries of the batch that it has arguments for, so a program without a
    ``y`` argument is never handed ``y``; the data, ``x``, may have another name there (:func:`data_argument`). A
    PyroModule keeps its own parameters. A plain function's are found where it keeps them: modules that it refers to
    (globals or closure, itself or through its helper functions) become submodules. Whatever else a program turns out to
    use when it is run first (:func:`prime`), as modules behind objects of one's own and bare parameters, is adopted
    then (:func:`~pyro_vae.programs.parameters.adopt_what_is_used`). ``pyro.param`` values become parameters in a
    private store; a module keeps it as its submodule ``pyro_params``. Pyro's global parameter store is neither read nor
    written.

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
        call = without_param_statements(program) if isinstance(program, nn.Module) else program
        self._call = partial(told_or_run, program, call)
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
        around = getattr(self.program, "inner_program", None)
        if isinstance(around, Program):  # the module around it has nothing of its own to find
            return around.adopt(name, value)
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


def without_param_statements(program: nn.Module) -> Callable[..., Any]:
    """How to call a module, where it uses its own parameters, so that reading them costs no Pyro statements.

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
        elif inspect.isfunction(value) and str(value.__module__).partition(".")[0] not in LIBRARIES:
            visit_all(names_used(value))
            visit(name, getattr(value, "__wrapped__", None))

    def visit_all(values: dict[str, Any]) -> None:
        for name, value in values.items():
            visit(name, value)

    visit("module", function)
    return found


def as_program(model: Callable[..., Any]) -> Program:
    """Wrap one program, with a private store of its own; a Program is returned as it is."""
    return model if isinstance(model, Program) else Program(model)


def as_programs(model: Callable[..., Any], guide: Callable[..., Any]) -> tuple[Program, Program]:
    """Wrap a model and its guide, which share one private store; Programs are returned as they are.

    Modules of the model that work with its guide (:class:`~pyro_vae.programs.inside.OfGuide`) are told of it.

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
    connect(*wrapped)
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
