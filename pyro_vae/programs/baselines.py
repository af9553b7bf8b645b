"""Baselines of a guide's site: what ``infer={"baseline": ...}`` says, in Pyro's words and two of our own.

Besides Pyro's ``nn_baseline`` there is ``nn_relax``, a network c that is shown the *relaxed* draw of a Bernoulli or
(one-hot) Categorical site: ``(..., *event)`` in (0, 1), of K classes ``(..., K)`` that sum to one, at the temperature
``relax_temperature`` (0.5; a number, or a parameter that is learned). It gives one number for each datum:
``c(relaxed)`` or, where there is an ``nn_baseline_input``, ``c(relaxed, input)``. What is done with it stands at
:class:`~pyro_vae.objectives.relaxed_control.Control`.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pyro_vae.errors import InputError, unknown
from pyro_vae.programs.relaxed import RelaxedDraw, relaxed_draw
from pyro_vae.programs.sites import Site, innermost

OPTIONS = (
    *("nn_baseline", "nn_baseline_input", "baseline_value", "use_decaying_avg_baseline", "baseline_beta"),
    *("nn_relax", "relax_temperature"),
)
DECAY = 0.9  # Pyro's
TEMPERATURE = 0.5


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
    value: Tensor = network(_detached(of))
    return value


def relaxes(site: Site) -> bool:
    """Whether the site asks for a control variate of its relaxed draw."""
    return options(site).get("nn_relax") is not None


def control(site: Site, draw: RelaxedDraw, z: Tensor) -> Tensor:
    """What ``nn_relax`` gives for a relaxed draw, one number for each element of the site's batch.

    Args:
        site: which has it.
        draw, z: of the site; z as it is to be differentiated.

    Raises:
        InputError: if it gives another shape; names the site.
    """
    given, shape = options(site), site["fn"].batch_shape
    inputs = [] if given.get("nn_baseline_input") is None else [_detached(given["nn_baseline_input"])]
    value = given["nn_relax"](draw.softened(z, given.get("relax_temperature", TEMPERATURE)), *inputs)
    if not isinstance(value, Tensor) or value.shape != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"site '{site['name']}': its nn_relax gives {got} of a relaxed draw {tuple(z.shape)} where {tuple(shape)}, "
            "one number a datum, is wanted: end a network of one output with nn.Flatten(-2), or take [..., 0] of it"
        )
    return value


def networks(site: Site) -> list[Tensor]:
    """What the site's networks give, with the gradients of their own parameters."""
    found = [learned(site)]
    if relaxes(site):
        draw = relaxed_draw(site)
        found.append(control(site, draw, draw.z))
    return [value for value in found if isinstance(value, Tensor)]


def _detached(value: Any) -> Any:
    return tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, value)


def check_baselines(guide: Trace, enumerated: Set[str], shared: Set[str]) -> None:
    """Check what a guide's latent sites say of their baselines.

    Args:
        guide: its trace.
        enumerated: sites that are summed over.
        shared: sites that all data share.
    """
    for name, site in guide.nodes.items():
        if site["type"] == "sample" and not site["is_observed"]:
            check(site, enumerated=name in enumerated, shared=name in shared)


def check(site: Site, *, enumerated: bool = False, shared: bool = False) -> None:
    """Check what a guide's site says of its baseline.

    Args:
        site: of a trace.
        enumerated: whether it is summed over.
        shared: whether all data share it.

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
    if relaxes(site):
        _check_control(site, shared)
    elif "relax_temperature" in given:
        raise InputError(f"site '{name}' has relax_temperature without nn_relax, which it is for")
    value, shape = learned(site), site["fn"].batch_shape
    if value is None:
        return
    if not isinstance(value, Tensor) or value.shape[-1:] != shape[-1:] or not _fits(value.shape, shape):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"site '{name}': its baseline is {got} where {tuple(shape)}, one number a datum, is wanted: end a network "
            "of one output with nn.Flatten(0), or take [..., 0] of it"
        )


def _check_control(site: Site, shared: bool) -> None:
    """Check that a control variate is one: of one number a datum, each made of that datum's own draw."""
    given, name = options(site), site["name"]
    temperature = given.get("relax_temperature", TEMPERATURE)
    number = temperature.detach() if isinstance(temperature, Tensor) else torch.tensor(temperature)
    if number.dim() or not 0 < number < torch.inf:
        raise InputError(f"site '{name}': relax_temperature must be one positive number, got {temperature}")
    network = given["nn_relax"]
    for module in network.modules() if isinstance(network, nn.Module) else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise InputError(
                f"site '{name}': its nn_relax has a {type(module).__name__}, which makes each datum's number of all "
                "data's draws, and the gradient would be biased: take it out, or use nn.LayerNorm"
            )
    draw = relaxed_draw(site)
    with torch.enable_grad():
        z = draw.z.requires_grad_()
        value = control(site, draw, z)
        slope = None
        if value.requires_grad:
            (slope,) = torch.autograd.grad(value[..., :1].sum() if value.dim() else value, z, allow_unused=True)
    if slope is None:
        raise InputError(f"site '{name}': its nn_relax does not look at the relaxed draw: what it is needs nn_baseline")
    last = len(site["fn"].batch_shape) - 1
    if not shared and bool(slope.narrow(last, 1, slope.shape[last] - 1).any()):
        raise InputError(
            f"site '{name}': its nn_relax makes one datum's number of other data's draws, and the gradient would be "
            "biased: operate on the last dimensions of the relaxed draw (dim=-1)"
        )


def _fits(shape: torch.Size, into: torch.Size) -> bool:
    try:
        return torch.broadcast_shapes(shape, into) == into
    except RuntimeError:
        return False
