"""Snapshots of what a program can change besides its registered tensors, to be compared and put back."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import random
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from pyro_vae.programs.parameters import names_used
from pyro_vae.recording.tensors import seen_by

LONG = 10_000  # entries of a list or dict, beyond which only its length is looked at
LARGE = 2**24  # numbers in a plain tensor, beyond which only its version is looked at
_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_LIBRARIES = {"torch", "pyro", "numpy", "lightning_fabric"} | sys.stdlib_module_names


class Snapshot:
    """The state that a module's programs can reach: attributes, containers, closures, globals, random generators.

    Reached from the module: attributes of its submodules and of other objects of the user's classes; lists and dicts;
    the globals and closed-over variables that functions and methods name; parameters, buffers and other tensors;
    random generators, Python's and NumPy's own among them; distributions and their transforms. Put back but not
    compared are registered buffers, which a graph follows, and what transforms keep of the values that they have seen.

    Args:
        module: where to start.
        keep: copy the tensors' values, so that they can be compared later and put back.
    """

    def __init__(self, module: nn.Module, *, keep: bool = True) -> None:
        self.module, self._keep = module, keep
        self.leaves: dict[str, Any] = {}  # by path: what can be compared
        self._times: dict[str, int] = {}
        self.transforms: list[Transform] = []
        self._undo: list[Callable[[], None]] = []
        self._undo_buffers: list[Callable[[], None]] = []
        self._seen: set[int] = set()
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}
        self._buffers = {id(b) for b in module.buffers()}
        self._alive: list[Any] = []  # objects that are told apart by their ids
        self._visit("the state of Python's random numbers", random._inst)  # type: ignore[attr-defined]
        self._visit("the state of NumPy's random numbers", np.random.mtrand._rand)  # type: ignore[attr-defined]
        self._visit("", module)

    def changed(self) -> str | None:
        """The first thing that is not as it was, in words; None if all is."""
        now = Snapshot(self.module, keep=False).leaves
        for path in itertools.chain(self.leaves, now):
            if path not in now or path not in self.leaves or not _same(self.leaves[path], now[path]):
                return path
        return None

    def restore(self) -> None:
        """Put everything back."""
        self.restore_objects()
        self.restore_tensors()

    def restore_objects(self) -> None:
        """Put back all but the values of tensors."""
        for undo in self._undo:
            undo()

    def rebind_buffers(self) -> None:
        """Put the buffers back where they were, with the values that they have."""
        for undo in self._undo_buffers:
            undo()

    @torch.no_grad()
    def restore_tensors(self) -> None:
        """Put back only the values of tensors, and buffers where they were."""
        self.rebind_buffers()
        for tensor, value in self._tensors.values():
            if not _equal(tensor, value):
                tensor.data.copy_(value)

    def _visit(self, path: str, value: Any) -> None:
        if isinstance(value, _SCALARS):
            self._add(path, repr(value))
        elif isinstance(value, Tensor):
            self._visit_tensor(path, value)
        elif isinstance(value, itertools.count):
            self._add(path, repr(value))
        elif id(value) not in self._seen:
            self._seen.add(id(value))
            self._visit_object(path, value)

    def _add(self, path: str, leaf: Any) -> None:
        """Several leaves may have one path: variables of one name in several closures."""
        times = self._times[path] = self._times.get(path, 0) + 1
        self.leaves[path if times == 1 else f"{path} ({times})"] = leaf

    def _visit_tensor(self, path: str, value: Tensor) -> None:
        small = isinstance(value, nn.Parameter) or id(value) in self._buffers or value.numel() <= LARGE
        if small and id(value) not in self._tensors and value.layout is torch.strided and not _fake(value):
            self._tensors[id(value)] = value, value.detach().clone() if self._keep else value
        if id(value) not in self._buffers and not path.endswith(_BUFFER):
            kept = self._tensors.get(id(value))
            address = value.data_ptr() if kept else 0
            self._add(path, (value, kept[1] if kept else None, value._version, address))

    def _visit_object(self, path: str, value: Any) -> None:
        if isinstance(value, dict) and len(value) <= LONG:
            self._undo.append(functools.partial(_put_back, value, _content(value)))
            for key, item in list(value.items()):
                self._visit(f"{path}[{key!r}]", item)
        elif isinstance(value, (list, deque)) and len(value) <= LONG:
            self._undo.append(functools.partial(_put_back, value, list(value)))
            self._add(f"len({path})", len(value))
            for i, item in enumerate(list(value)):
                self._visit(f"{path}[{i}]", item)
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                self._visit(f"{path}[{i}]", item)
        elif isinstance(value, functools.partial):
            self._visit(path, (value.func, value.args, value.keywords))
        elif inspect.ismethod(value):
            self._visit(path, value.__self__)
        elif isinstance(value, FunctionType):
            self._visit_function(path, value)
        elif isinstance(value, type):
            self._visit_class(value)
        elif isinstance(value, (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)):
            state, put_back = _state_of(value)
            self._add(path, state)
            self._undo.append(put_back)
        elif isinstance(value, (nn.Module, Distribution, Transform)) or _of_the_user(type(value)):
            self._visit_attributes(path, value)
        elif isinstance(value, (list, dict, deque)):
            self._add(path, len(value))
        else:
            self._alive.append(value)
            self._add(path, id(value))

    def _visit_attributes(self, path: str, value: Any) -> None:
        attributes = getattr(value, "__dict__", {})
        self._undo.append(functools.partial(_put_back, attributes, _content(attributes)))
        seen: set[str] = set()
        if isinstance(value, Transform):
            self.transforms.append(value)
            seen = seen_by(value)
        for name, item in list(attributes.items()):
            if name in seen:
                continue
            if isinstance(value, nn.Module) and name in ("_parameters", "_modules", "_buffers"):
                self._undo.append(functools.partial(_put_back, item, dict(item)))
                if name == "_buffers":
                    self._undo_buffers.append(functools.partial(item.update, dict(item)))
                for key, inner in list(item.items()):
                    self._visit(_join(path, key) + (_BUFFER if name == "_buffers" else ""), inner)
            else:
                self._visit(_join(path, name), item)
        self._visit("", type(value))

    def _visit_class(self, cls: type) -> None:
        for name, item in vars(cls).items() if _of_the_user(cls) else ():
            path = f"{cls.__name__}.{name}"
            if isinstance(item, (staticmethod, classmethod)):
                item = item.__func__
            if isinstance(item, FunctionType):
                self._visit_function(path, item)
            elif isinstance(item, _SCALARS) and not name.startswith("__"):
                self._undo.append(functools.partial(setattr, cls, name, item))
                self._visit(path, item)

    def _visit_function(self, path: str, function: Any) -> None:
        if _root(function.__module__) in _LIBRARIES | {"pyro_vae"}:
            return
        for name, item in names_used(function).items():
            if isinstance(item, (*_SCALARS, itertools.count)) and name in function.__globals__:
                self._undo.append(functools.partial(function.__globals__.__setitem__, name, item))
            self._visit(f"{name}, which {function.__name__}() uses", item)
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # it is not bound yet
                if isinstance(cell.cell_contents, _SCALARS):
                    self._undo.append(functools.partial(setattr, cell, "cell_contents", cell.cell_contents))
        self._visit(path, getattr(function, "__wrapped__", None))


_BUFFER = " (buffer)"


def _state_of(generator: Any) -> tuple[Any, Callable[[], None]]:
    """The state of a random generator, to compare, and what puts it back."""
    if isinstance(generator, (torch.Generator, np.random.RandomState)):
        state, put_back = generator.get_state(), generator.set_state
    elif isinstance(generator, random.Random):
        state, put_back = generator.getstate(), generator.setstate
    else:
        state, put_back = generator.bit_generator.state, functools.partial(setattr, generator.bit_generator, "state")
    return state if isinstance(state, Tensor) else repr(state), lambda: put_back(state)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple) and a and isinstance(a[0], Tensor):  # a tensor, its value, version, address
        same = isinstance(b, tuple) and b[0] is a[0] and a[2:] == b[2:]
        return same and (a[1] is None or _equal(a[1], b[1]))
    return type(a) is type(b) and a == b


def _equal(a: Tensor, b: Any) -> bool:
    return isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def _fake(tensor: Tensor) -> bool:
    return type(tensor) not in (Tensor, nn.Parameter)


def _content(container: dict) -> dict:
    """What a dict holds; a counting iterator by a copy, as it cannot be set back."""
    return {k: copy.copy(v) if isinstance(v, itertools.count) else v for k, v in container.items()}


def _put_back(container: Any, content: Any) -> None:
    ours, theirs = (
        list(each.items()) if isinstance(each, dict) else list(enumerate(each)) for each in (container, content)
    )
    if len(ours) != len(theirs) or any(
        (k is not n and k != n) or v is not w for (k, v), (n, w) in zip(ours, theirs, strict=True)
    ):
        container.clear()
        (container.update if isinstance(container, dict) else container.extend)(content)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else str(name)


def _root(module: Any) -> str:
    return str(module).partition(".")[0]


def _of_the_user(cls: type) -> bool:
    return cls is SimpleNamespace or _root(cls.__module__) not in _LIBRARIES
