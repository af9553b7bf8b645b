"""What a program is given: its data, its context, and how many to generate."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vae.errors import InputError


@dataclass(frozen=True)
class Context:
    """What is right for one argument of a program.

    A program declares it by an attribute, ``context: dict[str, Context]`` by argument name; a program without one is
    not checked.

    Args:
        what: for people, in the plural: "class labels from 0 to 9".
        shape: shape of one datum's value.
        dtype: its type; any floating type serves for ``torch.float32``.
        support: constraint on its values, elementwise.
        drawn: the program has a site of this name, and draws what is not given.
        optional: what is not given has a meaning of its own, such as sequences of full length.
        averaged: what is not given is averaged over, so that the program is p(x) without it and p(x | it) with it. Such
            context is optional, and commands that measure a run leave it out unless it is asked for
            (:func:`pyro_vae.programs.left_out.without_averaged`).
    """

    what: str
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    support: Constraint = constraints.real
    drawn: bool = False
    optional: bool = False
    averaged: bool = False

    def described(self) -> str:
        """In words what it takes, with type and shape."""
        kind = "floating point" if self.dtype.is_floating_point else str(self.dtype)
        return f"{self.what}: {kind} of shape {_shown('N', *self.shape)}"

    def check(self, name: str, value: Tensor) -> None:
        """Check a batch's values, ``(batch, *shape)``.

        Raises:
            InputError: says which argument, what is wrong with it, and what would be right.
        """
        right = f"argument '{name}' takes {self.described()}"
        if not isinstance(value, Tensor):
            raise InputError(f"{right}; got {type(value).__name__}")
        if value.dtype != self.dtype and not (self.dtype.is_floating_point and value.is_floating_point()):
            raise InputError(f"{right}; got {value.dtype}")
        shape = f"shape {_shown('N', *value.shape[1:])}" if value.dim() else "a single number"
        if value.dim() == 0 or tuple(value.shape[1:]) != self.shape:
            raise InputError(f"{right}; got {shape}")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            first = int((~value.isfinite().reshape(len(value), -1).all(1)).nonzero()[0])
            raise InputError(f"{right}; datum {first} of a batch has NaN or infinite numbers: replace them first")
        if not bool(self.support.check(value).all()):
            raise InputError(f"{right}; got values from {value.min().item():.6g} to {value.max().item():.6g}")


def label_context(num_classes: int) -> Context:
    """Class labels 0 ... num_classes - 1, one a datum."""
    support = constraints.integer_interval(0, num_classes - 1)
    return Context(f"class labels from 0 to {num_classes - 1}", (), torch.int64, support)


def partial_label_context(num_classes: int) -> Context:
    """Class labels 0 ... num_classes - 1, one a datum, -1 where it is not known; the model has a site of them."""
    support = constraints.integer_interval(-1, num_classes - 1)
    what = f"class labels from 0 to {num_classes - 1}, -1 where one is not known"
    return Context(what, (), torch.int64, support, drawn=True)


def optional_label_context(num_classes: int) -> Context:
    """Class labels 0 ... num_classes - 1, one a datum, -1 where it is not known: averaged over, as without any."""
    return replace(partial_label_context(num_classes), drawn=False, optional=True, averaged=True)


def attribute_context(dim: int) -> Context:
    """Vectors of ``dim`` attributes, one a datum."""
    return Context(f"vectors of {dim} attribute{'s' * (dim > 1)}", (dim,))


def narrowed(name: str, own: Context, other: Context) -> Context:
    """What two takers of one argument both accept, a model and a prior in it: the first one's, with both supports.

    What one of them cannot be without, both cannot.

    Args:
        name: of the argument.
        own: the model's.
        other: of what is given the argument beside it.

    Raises:
        InputError: if the two are of other shapes or types.
    """
    kinds = {(each.shape, "real" if each.dtype.is_floating_point else each.dtype) for each in (own, other)}
    if len(kinds) > 1:
        raise InputError(
            f"argument '{name}' is {own.described()} for the model, and {other.described()} for its prior: give the "
            "prior a condition of the same kind"
        )
    what, support = _both(own, other)
    optional, averaged = own.optional and other.optional, own.averaged and other.averaged
    return replace(own, what=what, support=support, optional=optional, averaged=averaged)


def _both(own: Context, other: Context) -> tuple[str, Constraint]:
    """In words, and as a constraint, what both accept."""
    ours, theirs = own.support, other.support
    if ours is theirs:
        return own.what, ours
    if num_classes(own) is None or num_classes(other) is None:
        return f"{own.what} that are {other.what}", _Both(ours, theirs)
    if ours.lower_bound >= theirs.lower_bound and ours.upper_bound <= theirs.upper_bound:
        return own.what, ours
    if ours.lower_bound <= theirs.lower_bound and ours.upper_bound >= theirs.upper_bound:
        return other.what, theirs
    both = label_context(1 + min(ours.upper_bound, theirs.upper_bound))  # -1 is known to one of them alone
    return both.what, both.support


class _Both(Constraint):
    """What two constraints allow."""

    def __init__(self, *parts: Constraint) -> None:
        self.parts = parts
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self.parts[0].check(value) & self.parts[1].check(value)


def num_classes(context: Context) -> int | None:
    """How many classes there are, if the context is a class label."""
    if context.shape or context.dtype != torch.int64 or not isinstance(context.support, type(label_context(1).support)):
        return None
    return int(context.support.upper_bound) + 1


def num_attributes(context: Context) -> int | None:
    """How many attributes there are, if the context is a vector of them."""
    return context.shape[0] if len(context.shape) == 1 and context.dtype.is_floating_point else None


def _shown(*sizes: object) -> str:
    return f"({', '.join(map(str, sizes))}{',' * (len(sizes) == 1)})"


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
        program: a module, a function, or a :class:`~pyro_vae.programs.program.Program` of one.
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
    found = declared_context(program).items()
    declared = [name for name, context in found if name in free and not (context.drawn or context.optional)]
    return [*required, *declared]


def given_names(program: Callable[..., Any], names: Iterable[str]) -> list[str]:
    """Which entries of a batch a model's density is given, sorted: its context, but for what it has a site of.

    Args:
        program: the model.
        names: of the batch's entries.
    """
    names = list(names)
    declared = [name for name, context in declared_context(program).items() if not context.drawn]
    return sorted({*required_arguments(program, names), *declared} & {*names})


def takes(program: Callable[..., Any], argument: str) -> bool:
    """Whether a program has an argument of this name."""
    names = accepted_arguments(program)
    return names is None or argument in names


def declared_context(program: Callable[..., Any]) -> dict[str, Context]:
    """What a program says of its context, by argument name: its attribute ``context``, if it has one."""
    declared = getattr(unwrapped(program), "context", None)
    return dict(declared) if isinstance(declared, Mapping) else {}


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _parameters(program: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    target = unwrapped(program)
    return inspect.signature(target.forward if isinstance(target, nn.Module) else target).parameters


def unwrapped(program: Callable[..., Any]) -> Callable[..., Any]:
    """The module or function that a :class:`~pyro_vae.programs.program.Program` is of; others as they are."""
    return program.program if getattr(program, "is_program", False) else program  # type: ignore[attr-defined]
