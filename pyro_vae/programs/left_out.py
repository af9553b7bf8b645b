"""A model without context that it can do without: p(x) in the place of p(x | y), whatever the data carry."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import wraps
from typing import Any

from torch import nn

from pyro_vae.errors import InputError
from pyro_vae.programs.context import Context, declared_context, unwrapped
from pyro_vae.programs.program import as_program


class LeftOut(nn.Module):
    """A model that is never handed some of its optional arguments.

    Args:
        model: a generative program, module or function.
        names: of the arguments.
    """

    def __init__(self, model: Callable[..., Any], names: Collection[str]) -> None:
        super().__init__()
        self.inner_program = as_program(model)
        self.names = frozenset(names)

    @property
    def context(self) -> dict[str, Context]:
        """What the model is given, but for these."""
        return {k: v for k, v in declared_context(self.inner_program).items() if k not in self.names}

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        """Run the model; it has all arguments of the model but these."""
        inner = unwrapped(self.inner_program)
        target = inner.forward if isinstance(inner, nn.Module) else inner
        signature = inspect.signature(target)
        kept = signature.replace(parameters=[p for n, p in signature.parameters.items() if n not in self.names])

        @wraps(target)
        def run(*args: Any, **kwargs: Any) -> Any:
            given = {**kept.bind_partial(*args).arguments, **kwargs} if args else kwargs
            return self.inner_program(**{k: v for k, v in given.items() if k not in self.names})

        run.__signature__ = kept  # type: ignore[attr-defined]
        return run


def averaged_names(model: Callable[..., Any]) -> list[str]:
    """The context without which a model averages over it, sorted."""
    return sorted(name for name, context in declared_context(model).items() if context.averaged)


def without_averaged(model: Callable[..., Any], given: Collection[str] = ()) -> Callable[..., Any]:
    """The model as it is measured: p(x), not p(x | y), of what it can average over, unless that is to be given.

    Data carry labels for many reasons. A model of this kind is handed them where it is trained, and its log p(x) does
    not become log p(x | y) by that.

    Args:
        model: a generative program.
        given: the context to be handed on all the same.

    Returns:
        the model itself, if nothing is left out of it; of another model the weights are the same ones.

    Raises:
        InputError: for context that is no such.

    Example:
        >>> import pyro_vae
        >>> from pyro_vae.programs.context import declared_context
        >>> from pyro_vae.programs.left_out import without_averaged
        >>> model = pyro_vae.models.ClassPriorVAE((1, 8, 8), pyro_vae.priors.PinwheelPrior(), hidden_dims=(16,))
        >>> list(declared_context(model)), list(declared_context(without_averaged(model)))
        (['y'], [])
    """
    names = averaged_names(model)
    wrong = [name for name in given if name not in names]
    if wrong:
        raise InputError(
            f"given: {', '.join(wrong)} is nothing that this model averages over where it is not given, which is "
            f"{', '.join(names) or 'nothing'}; leave it out: what else the model takes of the data, it is given"
        )
    left_out = [name for name in names if name not in given]
    return LeftOut(model, left_out) if left_out else model
