"""A program that is held as it is while another is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn

TRAIN = "train"


def is_held(module: nn.Module) -> bool:
    """Whether a module is held by :func:`held`: nothing of it is trained, or initialized from data."""
    return getattr(vars(module).get(TRAIN), "func", None) is _stay


@contextmanager
def held(modules: Iterable[nn.Module], parameters: Iterable[nn.Parameter] = ()) -> Iterator[None]:
    """Modules in evaluation mode, whoever asks for another, and parameters without gradients, inside this block.

    A module that another program has too (a guide that runs its model) stays as it is there. Modes and
    ``requires_grad`` are put back at the end.

    Args:
        modules: each by itself, without what is inside it.
        parameters: whether they are the modules' or not.
    """
    modes = [(module, module.training) for module in dict.fromkeys(modules)]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for module, _ in modes:
        module.training = False
        vars(module)[TRAIN] = partial(_stay, module)
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, training in modes:
            vars(module).pop(TRAIN, None)
            module.training = training


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """Stand in for a held module's ``train``, which ``eval`` calls too: nothing changes."""
    return module
