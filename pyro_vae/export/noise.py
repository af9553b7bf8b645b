"""Random numbers as an input: what a program draws is made of noise that it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

Kind = Literal["normal", "uniform"]
SMALLEST = 2.0**-24  # uniform numbers are above it and below 1 - it, as far as they are read
_aten = torch.ops.aten


class Draw(NamedTuple):
    """What one random operation of a program takes.

    Attributes:
        kind: standard normal, or uniform between 0 and 1.
        shape: of the numbers.
        dtype: their type.
        site: at which site of the program they are drawn, or after which; None: before the first.
    """

    kind: Kind
    shape: tuple[int, ...]
    dtype: torch.dtype
    site: str | None


class NoNoise(Exception):
    """A random operation that is no function of normal or uniform numbers."""


def _normal(value: Tensor, noise: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> Tensor:
    return noise if (mean, std) == (0.0, 1.0) else mean + std * noise


def _uniform(value: Tensor, noise: Tensor, low: float = 0.0, high: float = 1.0, **_: Any) -> Tensor:
    return noise if (low, high) == (0.0, 1.0) else low + (high - low) * noise


def _exponential(value: Tensor, noise: Tensor, rate: float = 1.0, **_: Any) -> Tensor:
    return -torch.log1p(-noise) / rate


def _multinomial(probs: Tensor, noise: Tensor, num_samples: int, replacement: bool = False, **_: Any) -> Tensor:
    """The inverse of the cumulative distribution, for each draw."""
    if not replacement and num_samples > 1:
        raise NoNoise("it draws without replacement")
    cumulative = (probs / probs.sum(-1, keepdim=True)).cumsum(-1)  # (..., K)
    below = cumulative.unsqueeze(-2) <= noise.unsqueeze(-1)  # (..., num_samples, K)
    return below.sum(-1).clamp(max=probs.shape[-1] - 1)


def _bernoulli(probs: Tensor, noise: Tensor, **_: Any) -> Tensor:
    return (noise < probs).to(probs.dtype)


# by operation: the kind of its noise, and what it makes of it; the first argument gives shape and type
_FILLED: dict[Any, tuple[Kind, Callable[..., Tensor]]] = {
    _aten.normal_.default: ("normal", _normal),
    _aten.normal_functional.default: ("normal", _normal),
    _aten.uniform_.default: ("uniform", _uniform),
    _aten.uniform.default: ("uniform", _uniform),
    _aten.exponential_.default: ("uniform", _exponential),
    _aten.exponential.default: ("uniform", _exponential),
    _aten.randn_like.default: ("normal", _normal),
    _aten.rand_like.default: ("uniform", _uniform),
    _aten.bernoulli.default: ("uniform", _bernoulli),
}
_OF_SHAPE: dict[Any, Kind] = {_aten.randn.default: "normal", _aten.rand.default: "uniform"}
_BETWEEN: dict[Any, Callable[[Any], tuple[int, int, Any]]] = {  # integers: from, below, how many
    _aten.randint.default: lambda args: (0, args[0], args[1]),
    _aten.randint.low: lambda args: (args[0], args[1], args[2]),
}


class Noise(TorchDispatchMode):
    """A mode in which random operations take their numbers from a source.

    Args:
        source: gives the numbers of the next operation, of its shape and type; called once for each, in the order of
            the program.
        site: says at which site the program is.
    """

    def __init__(self, source: Callable[[Draw], Tensor], site: Callable[[], str | None]) -> None:
        super().__init__()
        self.source, self.site = source, site

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Run an operation; one that draws, with the source's numbers."""
        options = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **options)
        options.pop("generator", None)
        if func in _OF_SHAPE:
            dtype = options.get("dtype") or torch.get_default_dtype()
            return self._of(_OF_SHAPE[func], tuple(args[0]), dtype)
        if func in _FILLED:
            kind, make = _FILLED[func]
            first, rest = args[0], list(args[1:])
            made = make(first, self._of(kind, tuple(first.shape), first.dtype), *rest, **options)
            return first.copy_(made) if func._schema.name.endswith("_") else made
        if func is _aten.normal.Tensor_Tensor:
            mean, std = args[:2]
            shape = torch.broadcast_shapes(mean.shape, std.shape)
            return mean + std * self._of("normal", tuple(shape), mean.dtype)
        if func in (_aten.normal.Tensor_float, _aten.normal.float_Tensor):
            mean, std = args[0], args[1] if len(args) > 1 else options.get("std", 1.0)
            tensor = mean if isinstance(mean, Tensor) else std
            return mean + std * self._of("normal", tuple(tensor.shape), tensor.dtype)
        if func in _BETWEEN:
            low, high, shape = _BETWEEN[func](args)
            numbers = self._of("uniform", tuple(shape), torch.get_default_dtype())
            return (low + (high - low) * numbers).floor().clamp(max=high - 1).to(options.get("dtype") or torch.int64)
        if func is _aten.multinomial.default:
            probs, count = args[:2]
            numbers = self._of("uniform", (*probs.shape[:-1], count), probs.dtype)
            return _multinomial(probs, numbers, *args[1:], **options)
        if func in (_aten.dropout.default, _aten.native_dropout.default):
            return func(*args, **options)
        name = str(func).removeprefix("aten.").partition(".")[0].strip("_")
        raise NoNoise(f"it draws by '{name}', which is no function of normal or uniform numbers")

    def _of(self, kind: Kind, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self.source(Draw(kind, shape, dtype, self.site()))


class NewOfShape(TorchFunctionMode):
    """A mode in which ``tensor.new(shape)``, as in torch's Laplace, has that shape where it is traced, too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function; ``new`` of a shape as ``new_empty``."""
        if func is Tensor.new and len(args) == 2 and isinstance(args[1], torch.Size):
            return args[0].new_empty(args[1])
        return func(*args, **(kwargs or {}))


def standard(draw: Draw, generator: torch.Generator | None = None) -> Tensor:
    """Numbers of the kind and shape that an operation takes, from a generator."""
    if draw.kind == "normal":
        return torch.randn(draw.shape, dtype=draw.dtype, generator=generator)
    numbers = torch.rand(draw.shape, dtype=draw.dtype, generator=generator)
    return numbers.clamp(SMALLEST, 1 - SMALLEST)
