"""Helpers of recording: other tensors in a module's place, memory layouts, caches of transforms, random states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributions import Transform
from torch.distributions.transforms import _InverseTransform
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map


def seen_by(transform: Transform) -> set[str]:
    """Names of the attributes that hold what a transform has seen, not what it is.

    The last input and output, the Jacobian there (Pyro's flows), and the inverse, which is made when it is asked for.

    Example:
        >>> import torch
        >>> from pyro_vae.recording import seen_by
        >>> sorted(seen_by(torch.distributions.ExpTransform(cache_size=1)))
        ['_cached_x_y', '_inv']
    """
    names = {name for name in vars(transform) if name.startswith("_cache") and name != "_cache_size"}
    return names if isinstance(transform, _InverseTransform) else names | {"_inv"}


def forget(transform: Transform) -> None:
    """Make a transform as one that has not seen anything.

    Example:
        >>> import torch
        >>> from pyro_vae.recording import forget
        >>> transform = torch.distributions.ExpTransform(cache_size=1)
        >>> y = transform(torch.zeros(3))
        >>> forget(transform)
        >>> transform._cached_x_y
        (None, None)
    """
    for name in seen_by(transform):
        nothing: Any = (None, None) if name == "_cached_x_y" else None
        transform.__dict__[name] = nothing


@contextmanager
def with_tensors(module: nn.Module, tensors: Mapping[int, Tensor]) -> Iterator[None]:
    """Other tensors in place of a module's own; a buffer that is bound anew inside is written into its old place."""
    own = [
        (store, name, value)
        for m in module.modules()
        for store in (m._parameters, m._buffers)
        for name, value in store.items()
        if value is not None
    ]
    recurrent = [(m, m._flat_weights) for m in module.modules() if isinstance(m, nn.RNNBase)]
    elsewhere = _Instead({id(value): tensors[id(value)] for _, _, value in own})  # a program's closures and globals
    try:
        for store, name, value in own:
            store[name] = tensors[id(value)]  # type: ignore[assignment]
        for m, _ in recurrent:
            m._flat_weights = [m._parameters[n] for n in m._flat_weights_names]
        with elsewhere:
            yield
        with torch.no_grad():
            for store, name, value in own:
                if store[name] is not tensors[id(value)]:
                    tensors[id(value)].copy_(store[name])  # type: ignore[arg-type]
    finally:
        for store, name, value in own:
            store[name] = value
        for m, weights in recurrent:
            m._flat_weights = weights


class _Instead(TorchFunctionMode):
    """Hands functions of torch other tensors in place of those with these ids: of bare parameters, say."""

    def __init__(self, tensors: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.tensors = tensors

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(lambda value: self.tensors.get(id(value), value), (args, kwargs or {}))
        return function(*args, **kwargs)


def as_accumulated(gradients: Sequence[Tensor | None], leaves: list[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Each gradient in its parameter's layout and in memory of its own, as ``backward`` leaves it in ``.grad``.

    Optimizers rely on both: fused ones read raw memory, clipping works in place.
    """
    taken = {t.untyped_storage()._cdata for t in inputs}
    results = []
    for gradient, leaf in zip(gradients, leaves, strict=True):
        if gradient is None:
            continue
        storage = gradient.untyped_storage()._cdata
        if gradient.stride() != leaf.stride() or storage in taken:
            gradient = torch.empty_like(leaf).copy_(gradient)
            storage = gradient.untyped_storage()._cdata
        taken.add(storage)
        results.append(gradient.detach())
    return results


def copied(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch that a program may work on in place."""
    return {name: value.clone() for name, value in batch.items()}


def expanded_along(t: Tensor) -> tuple[int, ...]:
    """The dimensions along which a tensor repeats one and the same memory.

    Example:
        >>> import torch
        >>> from pyro_vae.recording import expanded_along
        >>> expanded_along(torch.zeros(3, 1).expand(3, 4))
        (1,)
    """
    if t.layout is not torch.strided:
        return ()
    return tuple(i for i, (size, stride) in enumerate(zip(t.shape, t.stride(), strict=True)) if size > 1 and not stride)


def laid_out(t: Tensor, expanded: tuple[int, ...]) -> Tensor:
    """A tensor in the one layout that graphs are recorded for: rows one after another, but for what is expanded.

    A graph holds views that fit the memory they were recorded for; in another layout they fail, or see other numbers.

    Args:
        t: of any layout.
        expanded: dimensions to repeat memory along; those of ``t`` (:func:`expanded_along`), or fewer.
    """
    if t.layout is not torch.strided or (not expanded and t.is_contiguous()):
        return t
    one = t[tuple(slice(0, 1) if i in expanded else slice(None) for i in range(t.dim()))]
    return one.contiguous().expand(t.shape)


def is_recorded(t: Tensor) -> bool:
    """Whether a tensor is one of a run that is being recorded, and has no numbers.

    Example:
        >>> import torch
        >>> from pyro_vae.recording import is_recorded
        >>> is_recorded(torch.zeros(3))
        False
    """
    return isinstance(t, FakeTensor)
