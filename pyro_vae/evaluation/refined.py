"""A guide whose parameters are shifted for each datum by itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import ExpandedDistribution, Independent, MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyro_vae.errors import InputError
from pyro_vae.traces import TracePair

Offsets = Mapping[str, Tensor]  # by "site: parameter", (*inner, N, *event) unconstrained


class Refined(Messenger):
    r"""Shifts the parameters of a guide's distributions, in unconstrained coordinates.

    .. math:: \theta_i \leftarrow T\bigl(T^{-1}(\theta_i) + \delta_i\bigr)

    for each parameter of each latent site (``loc``, ``scale``, …) and datum i, with T the transform onto the
    parameter's values. A guide whose sites depend on one another keeps its dependence; what is shifted is what its
    networks give.

    Args:
        offsets: delta.
    """

    def __init__(self, offsets: Offsets) -> None:
        super().__init__()
        self.offsets = offsets

    def _pyro_sample(self, msg: Any) -> None:
        own = {k.partition(": ")[2]: v for k, v in self.offsets.items() if k.partition(": ")[0] == msg["name"]}
        if own and not msg["is_observed"]:
            msg["fn"] = _shifted(msg["fn"], own)


def zero_offsets(pair: TracePair) -> dict[str, Tensor]:
    """Offsets of zero for every parameter of every latent site of the guide.

    Args:
        pair: traces with one particle.

    Raises:
        InputError: for a site whose distribution cannot be differentiated through its draws, or has no parameters
            that are known and leave its support as it is.
    """
    offsets = {}
    for name, (q, _) in pair.latent().items():
        base = _base(q["fn"])
        taken = _parameters(base)
        if not q["fn"].has_rsample or not taken or any(_moves(base.arg_constraints[p]) for p in taken):
            raise InputError(
                f"latent site '{name}': the guide's {type(base).__name__} cannot be refined: that takes a distribution "
                "with reparameterized draws, and with parameters that leave its support as it is, such as Normal"
            )
        for parameter, value in taken.items():
            unconstrained = transform_to(base.arg_constraints[parameter]).inv(value)
            offsets[f"{name}: {parameter}"] = torch.zeros_like(unconstrained, memory_format=torch.contiguous_format)
    return offsets


def _shifted(fn: Any, offsets: Mapping[str, Tensor]) -> Any:
    """A distribution, inside its wrappers, with other parameters."""
    if isinstance(fn, Independent):
        return Independent(_shifted(fn.base_dist, offsets), fn.reinterpreted_batch_ndims)
    if isinstance(fn, MaskedDistribution):
        return MaskedDistribution(_shifted(fn.base_dist, offsets), fn._mask)
    if isinstance(fn, ExpandedDistribution):
        return _shifted(fn.base_dist, offsets).expand(fn.batch_shape)
    values = {}
    for name, value in _parameters(fn).items():
        transform = transform_to(fn.arg_constraints[name])
        unconstrained = transform.inv(value)
        values[name] = transform(unconstrained + _repeated_to(offsets[name], unconstrained.shape))
    return type(fn)(**values, validate_args=False)


def _repeated_to(offset: Tensor, shape: torch.Size) -> Tensor:
    """Offsets of N data for tensors in which each datum is repeated."""
    for dim in range(-offset.dim(), 0):
        size, wanted = offset.shape[dim], shape[dim]
        if size not in (1, wanted):
            offset = offset.repeat_interleave(wanted // size, dim)
    return offset


def _moves(constraint: Any) -> bool:
    """Whether what a parameter may be depends on other parameters, as of the ends of an interval, or of a point."""
    ends = (getattr(constraint, name, None) for name in ("lower_bound", "upper_bound"))
    return constraints.is_dependent(constraint) or any(isinstance(end, Tensor) for end in ends)


def _base(fn: Any) -> Any:
    while isinstance(fn, (Independent, MaskedDistribution, ExpandedDistribution)):
        fn = fn.base_dist
    return fn


def _parameters(fn: Any) -> dict[str, Tensor]:
    """The parameters that a distribution was made of."""
    taken = inspect.signature(type(fn).__init__).parameters
    names = [name for name in fn.arg_constraints if name in taken]
    given = [
        name for name in names if name in vars(fn)
    ] or names  # of alternatives (covariance, precision) the given one
    return {name: getattr(fn, name) for name in given}
