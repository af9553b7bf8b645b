"""What the reference has a page for: every public name, and where it is documented if it is given in several places."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import pyro_vae

ROLE = re.compile(r":(?:py:)?(class|func|meth|attr|exc|data|obj):`(?:[~!]?)([\w.]+)`")


@dataclass(frozen=True)
class Room:
    """A public module: its name, what its docstring says in a line, and the names that it gives, sorted."""

    module: str
    about: str
    names: tuple[str, ...]

    @property
    def short(self) -> str:
        """Its name without the package's."""
        return self.module.removeprefix("pyro_vae.")


@cache
def rooms() -> tuple[Room, ...]:
    """The package, its modules with an ``__all__``, and the exceptions."""
    found = [pyro_vae]
    for inner in pkgutil.iter_modules(pyro_vae.__path__, "pyro_vae."):
        if not inner.name.endswith("__main__"):
            found.append(importlib.import_module(inner.name))
    return tuple(Room(m.__name__, first_line(m), names) for m in found if (names := tuple(_given(m))))


def first_line(module: ModuleType) -> str:
    """The first paragraph of a module's docstring, in one line."""
    return " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split())


def _given(module: ModuleType) -> Iterator[str]:
    if module.__name__ == "pyro_vae.errors":
        yield from sorted(n for n, v in vars(module).items() if inspect.isclass(v) and issubclass(v, BaseException))
        return
    for name in sorted(getattr(module, "__all__", ())):
        if not isinstance(getattr(module, name), ModuleType):
            yield name


def value_of(name: str) -> Any:
    """What a full name stands for.

    Raises:
        LookupError: if there is no such thing.
    """
    parts = name.split(".")
    if "" in parts:
        raise LookupError(name)
    for end in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[end:]:
                value = getattr(value, part)
        except AttributeError:
            break
        return value
    raise LookupError(name)


def origin(value: Any) -> str:
    """Where a class or function is written, by its full name; of other things, who they are."""
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    return f"#{id(value)}"


@cache
def homes() -> dict[str, str]:
    """The one full name under which each public thing has its page, by its origin: the shortest."""
    found: dict[str, str] = {}
    for room in rooms():
        for name in room.names:
            full = f"{room.module}.{name}"
            where = origin(value_of(full))
            if where not in found or full == where:
                found[where] = full
    return found


def home(full: str) -> str:
    """The full name under which a public name is documented."""
    return homes()[origin(value_of(full))]


def target(name: str, module: str, owner: str = "") -> tuple[str, str] | None:
    """What a role in a docstring means.

    Args:
        name: as the role says it: a full name, or one of the docstring's own class, module, room or package.
        module: in which the docstring is written.
        owner: the class in which it is written, by its full name.

    Returns:
        The origin of the class or function, and the rest of the name (a member of it); None if there is no such thing.
    """
    room = ".".join(module.split(".")[:2])
    for start in (owner, module, room, "pyro_vae", ""):
        full = f"{start}.{name}" if start else name
        parent_name, _, last = full.rpartition(".")
        try:
            parent = value_of(parent_name)
        except LookupError:
            continue
        if inspect.isclass(parent) and _is_member(parent, last):
            return origin(parent), last
        if not inspect.isclass(parent) and not isinstance(getattr(parent, last, parent), ModuleType):
            return origin(getattr(parent, last)), ""
    return None


def _is_member(owner: type, name: str) -> bool:
    """Whether a class has a member of the name, or gives it to its objects."""
    if hasattr(owner, name) or any(name in getattr(base, "__annotations__", {}) for base in owner.__mro__):
        return True
    return (
        owner.__module__.startswith("pyro_vae")
        and re.search(rf"self\.{name}\b.*=", inspect.getsource(owner)) is not None
    )


def is_of_others(name: str) -> bool:
    """Whether a role's name is a full one of another package."""
    package, _, rest = name.partition(".")
    return bool(rest) and package != "pyro_vae" and importlib.util.find_spec(package) is not None


def docstrings(value: Any) -> Iterator[tuple[str, str]]:
    """The docstrings that a page of a class or function shows, each with the class that it is written in."""
    yield inspect.getdoc(value) or "", origin(value) if inspect.isclass(value) else ""
    if not inspect.isclass(value):
        return
    for owner in value.__mro__:
        if owner.__module__.split(".")[0] == "pyro_vae":
            for name, member in vars(owner).items():
                inner = getattr(member, "__func__", getattr(member, "fget", member))
                if not name.startswith("_") and (inspect.isfunction(inner)) and inner.__doc__:
                    yield inspect.cleandoc(inner.__doc__), origin(owner)


@cache
def inside() -> dict[str, str]:
    """Classes and functions that are not public and that the public ones' docstrings refer to, by their origin."""
    found: dict[str, str] = {}
    new = {where: value_of(full) for where, full in homes().items()}
    while new:
        referred = {}
        for value in new.values():
            if not hasattr(value, "__module__"):
                continue
            for text, owner in docstrings(value):
                for _, name in ROLE.findall(text):
                    meant = target(name, owner.rpartition(".")[0] or value.__module__, owner)
                    if meant and meant[0].startswith("pyro_vae.") and meant[0] not in homes():
                        referred[meant[0]] = value_of(meant[0])
        new = {where: value for where, value in referred.items() if where not in found}
        found.update((where, where) for where in new)
    return dict(sorted(found.items()))


def documented(where: str) -> str | None:
    """The full name under which what has this origin is documented; None if it is not."""
    return homes().get(where) or inside().get(where)
