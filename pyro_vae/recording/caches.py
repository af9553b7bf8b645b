"""What transforms of distributions keep of the values that they have seen."""

from __future__ import annotations

from typing import Any

from torch.distributions import Transform
from torch.distributions.transforms import _InverseTransform


def seen_by(transform: Transform) -> set[str]:
    """Names of the attributes that hold what a transform has seen, not what it is.

    The last input and output, the Jacobian there (Pyro's flows), and the inverse, which is made when it is asked for.
    """
    names = {name for name in vars(transform) if name.startswith("_cache") and name != "_cache_size"}
    return names if isinstance(transform, _InverseTransform) else names | {"_inv"}


def forget(transform: Transform) -> None:
    """Make a transform as one that has not seen anything."""
    for name in seen_by(transform):
        nothing: Any = (None, None) if name == "_cached_x_y" else None
        transform.__dict__[name] = nothing
