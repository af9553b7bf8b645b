"""Groups of parameters that have options of their own, by patterns of their names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from pyro_vae.errors import InputError, unknown
from pyro_vae.training.muon import matrices_of

logger = logging.getLogger(__name__)

NOT_OF_GROUPS = (  # but for lr, which is taken out before
    *("params", "lr", "foreach", "fused", "capturable", "differentiable"),
    "initial_accumulator_value",  # which Adagrad reads once, for all
)
MOST_NAMED = 3  # parameters in a message


def names_of(step: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by their names in the weights' file (others: by their names in the step)."""
    known = {id(value): name for name, value in weights.items()}
    return {known.get(id(p), name): p for name, p in step.named_parameters() if p.requires_grad}


@dataclass
class Group:
    """Parameters that share their options.

    Attributes:
        pattern: that they match; None: none.
        members: themselves.
        options: beside those of all.
    """

    pattern: str | None
    members: list[nn.Parameter]
    options: dict[str, Any]


def grouped(named: Mapping[str, nn.Parameter], patterns: Mapping[str, Mapping[str, Any]]) -> list[Group]:
    """Parameters by the first pattern that matches their names; before them those that none matches.

    Raises:
        InputError: names a pattern to which no parameter is left.
    """
    found: dict[str | None, list[str]] = {None: [], **{pattern: [] for pattern in patterns}}
    for name in named:
        found[next((p for p in patterns if fnmatchcase(name, p)), None)].append(name)
    for pattern in patterns:
        if found[pattern]:
            logger.info("param_groups '%s': %s", pattern, some_of(found[pattern]))
        elif any(fnmatchcase(name, pattern) for name in named):
            raise InputError(
                f"param_groups: '{pattern}' matches only what patterns before it match; put the narrower one first"
            )
        else:
            raise unknown("pattern in param_groups", pattern, named)
    return [
        Group(pattern, [named[name] for name in names], {} if pattern is None else dict(patterns[pattern]))
        for pattern, names in found.items()
        if names
    ]


def with_matrices_apart(groups: list[Group], step: nn.Module) -> list[Group]:
    """The same groups, the matrices of each that does not say it (``orthogonal``) in one of its own."""
    matrices, apart = {id(p) for p in matrices_of(step)}, []
    for group in groups:
        if "orthogonal" in group.options:
            apart.append(group)
            continue
        for orthogonal in (True, False):
            members = [p for p in group.members if (id(p) in matrices) == orthogonal]
            if members:
                apart.append(Group(group.pattern, members, {**group.options, "orthogonal": orthogonal}))
    return apart


def check_options(pattern: str | None, said: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Check that a group's options are of those that an optimizer reads from groups: others it would not even see.

    Raises:
        InputError: names one that is not.
    """
    odd = next((name for name in said if name not in known or name in NOT_OF_GROUPS), None)
    if odd is not None:
        raise unknown(f"option in param_groups '{pattern}'", odd, known.keys() - {*NOT_OF_GROUPS} | {"lr"})


def some_of(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
