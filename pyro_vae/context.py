"""What a program accepts as context: the arguments beside its data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
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
    """

    what: str
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    support: Constraint = constraints.real
    drawn: bool = False

    def check(self, name: str, value: Tensor) -> None:
        """Check a batch's values, ``(batch, *shape)``.

        Raises:
            InputError: says which argument, what is wrong with it, and what would be right.
        """
        right = f"argument '{name}' takes {self.what}: {self.dtype} of shape {_shown('N', *self.shape)}".replace(
            "torch.float32", "floating point"
        )
        if not isinstance(value, Tensor):
            raise InputError(f"{right}; got {type(value).__name__}")
        if value.dtype != self.dtype and not (self.dtype.is_floating_point and value.is_floating_point()):
            raise InputError(f"{right}; got {value.dtype}")
        shape = f"shape {_shown('N', *value.shape[1:])}" if value.dim() else "a single number"
        if value.dim() == 0 or tuple(value.shape[1:]) != self.shape:
            raise InputError(f"{right}; got {shape}")
        if not bool(self.support.check(value).all()):
            raise InputError(f"{right}; got values from {value.min().item():.6g} to {value.max().item():.6g}")


def label_context(num_classes: int) -> Context:
    """Class labels 0 ... num_classes - 1, one a datum."""
    support = constraints.integer_interval(0, num_classes - 1)
    return Context(f"class labels from 0 to {num_classes - 1}", (), torch.int64, support)


def attribute_context(dim: int) -> Context:
    """Vectors of ``dim`` attributes, one a datum."""
    return Context(f"vectors of {dim} attribute{'s' * (dim > 1)}", (dim,))


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
