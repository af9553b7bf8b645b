"""What a checkpoint may say of an optimizer and of a scheduler: checked against what these themselves would hold."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.errors import InputError, why_not

MOST = 2**53  # of a count


def plain(value: Any, at: str) -> Any:
    """A state in dicts, lists, tensors and plain values, which can be read from a file without running code.

    Args:
        value: nested mappings and lists of them.
        at: what it is called.

    Raises:
        InputError: names what is none of these.
    """
    if isinstance(value, Mapping):
        return {key: plain(each, f"{at}.{key}") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, at) for each in value]
    if isinstance(value, Tensor):
        return value.detach()
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise InputError(f"{at} is of type {type(value).__name__}, which no checkpoint can hold: training could not resume")


def like(own: Any, saved: Any, at: str) -> Any:
    """A value from a file, if it is of the kind of one's own: the same keys and lengths, numbers for numbers.

    Args:
        own: mappings, lists, tuples, tensors and plain values.
        saved: from a file.
        at: what it is called.

    Raises:
        TypeError: names what is of another kind.
        RuntimeError: for a tensor of another shape.
    """
    if isinstance(own, Tensor):
        if isinstance(saved, int | float) and not own.dim():
            return torch.full_like(own, _number(saved, at))
        return tensor_like(own, saved, at)
    if isinstance(own, Mapping):
        if not isinstance(saved, Mapping) or saved.keys() != own.keys():
            raise TypeError(f"{at} has other entries than the {sorted(map(str, own))} that are right")
        made = {key: like(each, saved[key], f"{at}.{key}") for key, each in own.items()}
        return made if type(own) is dict else type(own)(made)
    if isinstance(own, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(own):
            raise TypeError(f"{at} is no list of {len(own)} entries")
        return type(own)(like(a, b, at) for a, b in zip(own, saved, strict=True))
    if isinstance(own, int | float) and not isinstance(own, bool):
        return _number(saved.item() if isinstance(saved, Tensor) and not saved.dim() else saved, at)
    if type(saved) is not type(own) or (isinstance(own, str) and own != saved):
        raise TypeError(f"{at} is {str(saved)[:80]!r}, where {own!r} or so is right")
    return saved


def _number(value: Any, at: str) -> int | float:
    if type(value) not in (int, float) or value != value or (type(value) is int and abs(value) > MOST):
        raise TypeError(f"{at} is {str(value)[:80]!r}, where a number is right")
    return value


def tensor_like(own: Tensor, saved: Any, at: str) -> Tensor:
    """A tensor from a file in the shape, type and memory layout of one's own; a copy.

    Raises:
        TypeError: if it is no tensor, or of another kind of numbers.
        RuntimeError: if it has another shape.
    """
    if not isinstance(saved, Tensor):
        raise TypeError(f"{at} is {str(saved)[:80]!r}, where a tensor is right")
    kinds = [(t.is_floating_point(), t.is_complex(), t.dtype == torch.bool) for t in (own, saved)]
    if kinds[0] != kinds[1]:
        raise TypeError(f"{at} is of type {saved.dtype}, where {own.dtype} is right")
    if own.shape != saved.shape:
        raise RuntimeError(f"{at} has shape {tuple(saved.shape)}, where {tuple(own.shape)} is right")
    return torch.empty_like(own, requires_grad=False).copy_(saved)


def is_torchs(value: Any) -> bool:
    """Whether an optimizer or a scheduler, or a class of them, is one of torch's own."""
    module = (value if isinstance(value, type) else type(value)).__module__
    return module == "torch.optim" or module.startswith("torch.optim.")


def state_after_a_step(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What an optimizer keeps of each of its parameters: by a step of a copy of it, along gradients of zero.

    Raises:
        InputError: if it takes no step from gradients alone, or keeps what no checkpoint can hold.
    """
    kind = type(optimizer).__name__
    try:
        fresh = object.__new__(type(optimizer))
        own = {name: value for name, value in vars(optimizer).items() if name != "step"}  # that schedulers wrap
        with torch.random.fork_rng([p.device for p in _parameters(optimizer) if p.device.type == "cuda"][:1]):
            vars(fresh).update(copy.deepcopy(own))
            for parameter in _parameters(fresh):
                parameter.grad = torch.zeros_like(parameter)
            with torch.enable_grad():
                fresh.step()
    except Exception as error:  # a class of the user's may fail in any way
        raise InputError(
            f"optimizer {kind} takes no step from the gradients of these parameters alone, as training needs it: "
            f"{why_not(error)}"
        ) from error
    found = [dict(fresh.state.get(p, {})) for p in _parameters(fresh)]
    for state in found:
        plain(state, f"optimizer {kind}: state")
    return found


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def checked_state(optimizer: Optimizer, saved: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a file says that an optimizer keeps of each parameter, in tensors of the shape, type and layout of its own.

    A fused step writes through bare pointers: a moment of another size would have it write beyond its memory. So each
    entry is held against what the optimizer itself makes in a step. Those of classes that are not torch's may keep
    more later on: numbers, and tensors of the parameter's shape.

    Args:
        optimizer: whose state it is.
        saved: from a file, as its ``state_dict`` made it.

    Raises:
        KeyError, TypeError, RuntimeError: names what is missing, there too much, or of another kind.
    """
    found, parameters = [], _parameters(optimizer)
    states = saved["state"]
    if not states.keys() <= set(range(len(parameters))):
        raise TypeError("the optimizer's state is of other parameters")
    for index, (own, parameter) in enumerate(zip(state_after_a_step(optimizer), parameters, strict=True)):
        state, made = states.get(index) or {}, {}
        for name, value in state.items():
            if name in own:
                absent = value is None and name == "momentum_buffer"  # of SGD, before the first gradient
                made[name] = None if absent else like(own[name], value, f"'{name}'")
            elif is_torchs(optimizer) and value is not None:
                raise TypeError(f"the optimizer keeps no {name}")
            elif value is not None:
                model = parameter if isinstance(value, Tensor) and value.dim() else torch.zeros(())
                made[name] = tensor_like(model, value, f"'{name}'") if isinstance(value, Tensor) else plain(value, name)
        lacking = own.keys() - made.keys() if state else ()
        if lacking:
            raise KeyError(sorted(map(str, lacking))[0])
        found.append(made)
    return found
