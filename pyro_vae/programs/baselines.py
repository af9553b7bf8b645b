"""Baselines of a guide's site: what ``infer={"baseline": ...}`` says, in Pyro's words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_vae.errors import InputError, unknown
from pyro_vae.programs.sites import Site, innermost

OPTIONS = ("nn_baseline", "nn_baseline_input", "baseline_value", "use_decaying_avg_baseline", "baseline_beta")
DECAY = 0.9  # Pyro's


def options(site: Site) -> dict[str, Any]:
    """The site's baseline options by name; empty if it has none."""
    return site["infer"].get("baseline") or {}


def averaged(site: Site) -> bool:
    """Whether the site asks for a decaying average of its learning signal."""
    return bool(options(site).get("use_decaying_avg_baseline"))


def decay(site: Site) -> float:
    """Of the decaying average, the part that is kept at a step."""
    return float(options(site).get("baseline_beta", DECAY))


def learned(site: Site) -> Tensor | None:
    """The baseline that is learned, with gradient to its own parameters alone; None if there is none.

    Raises:
        InputError: if there is nothing to call a network with; names the site.
    """
    given = options(site)
    network = given.get("nn_baseline")
    if network is None:
        return given.get("baseline_value")
    of = given.get("nn_baseline_input")
    if of is None:
        raise InputError(f"site '{site['name']}' has nn_baseline without nn_baseline_input, which it is called with")
    value: Tensor = network(tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, of))
    return value


def check(site: Site, *, enumerated: bool = False) -> None:
    """Check what a guide's site says of its baseline.

    Args:
        site: of a trace.
        enumerated: whether it is summed over.

    Raises:
        InputError: for options that are unknown or contradict one another, for a site that needs no baseline, and for a
            baseline that is not one number a datum; names the site.
    """
    given, name = options(site), site["name"]
    for option in given:
        if option not in OPTIONS:
            raise unknown(f"baseline option of site '{name}'", option, OPTIONS)
    if given and (enumerated or site["fn"].has_rsample):
        why = "is summed over exactly" if enumerated else f"({type(innermost(site['fn'])).__name__}) is reparameterized"
        raise InputError(f"site '{name}' {why}, and has infer={{'baseline': …}}, which it has no use for: take it out")
    if given.get("nn_baseline") is not None and given.get("baseline_value") is not None:
        raise InputError(f"site '{name}' has both nn_baseline and baseline_value: give one of them")
    if not 0 <= decay(site) < 1:
        raise InputError(f"site '{name}': baseline_beta must be at least 0 and below 1, got {decay(site)}")
    value, shape = learned(site), site["fn"].batch_shape
    if value is None:
        return
    if not isinstance(value, Tensor) or value.shape[-1:] != shape[-1:] or not _fits(value.shape, shape):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"site '{name}': its baseline is {got} where {tuple(shape)}, one number a datum, is wanted: end a network "
            "of one output with nn.Flatten(0), or take [..., 0] of it"
        )


def _fits(shape: torch.Size, into: torch.Size) -> bool:
    try:
        return torch.broadcast_shapes(shape, into) == into
    except RuntimeError:
        return False
