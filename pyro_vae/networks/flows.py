"""Flows of zuko: monotone maps of vectors with a known Jacobian, for priors and guides."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from torch import Size, Tensor, nn
from torch.distributions import Distribution, Transform, constraints

from pyro_vae.errors import InputError, positive, unknown

FlowKind = Literal["spline", "spline_coupling", "maf", "realnvp"]
KINDS = ("spline", "spline_coupling", "maf", "realnvp")


def zuko() -> Any:
    """The package of flows.

    Raises:
        InputError: if it is not installed; says how to install it.
    """
    validated = Distribution._validate_args
    try:
        return importlib.import_module("zuko")
    except ImportError as error:
        raise InputError("flows are zuko's, which is not installed: pip install 'pyro-vae[flows]'") from error
    finally:
        Distribution.set_default_validate_args(validated)  # zuko switches all checks of torch off when it is imported


def make_flow(
    kind: FlowKind, size: int, context_dim: int, num_layers: int, hidden_dims: Sequence[int], bins: int
) -> nn.Module:
    """A flow of vectors ``(..., size)`` as a module: called with its context, it gives a transform.

    Args:
        kind: "spline": autoregressive rational-quadratic splines, whose inverse takes one pass a number;
            "spline_coupling": the same splines for one half of the numbers given the other, one pass either way;
            "maf" and "realnvp": affine maps in their place.
        size: numbers in a vector; one is bent by an elementwise map.
        context_dim: size of the features that the transform depends on; 0: none.
        num_layers: maps one after another, in alternating order.
        hidden_dims: widths of each map's network.
        bins: of a spline on [-5, 5], outside of which it is the identity.

    Raises:
        InputError: for an unknown kind, sizes that are not positive, or without zuko.

    Source: Durkan et al. 2019, arXiv:1906.04032 (splines); Papamakarios et al. 2017, arXiv:1705.07057 (MAF); Dinh et
    al. 2017, arXiv:1605.08803 (RealNVP).
    """
    if kind not in KINDS:
        raise unknown("kind of flow", kind, KINDS)
    for name, value in (("num_layers", num_layers), ("bins", bins)):
        positive(name, value)
    library = zuko()
    splines: dict[str, Any] = {}
    if kind.startswith("spline"):
        splines["univariate"] = partial(library.transforms.MonotonicRQSTransform, slope=1e-3)
        splines["shapes"] = [(bins,), (bins,), (bins - 1,)]
    how = {"context": context_dim, "transforms": num_layers, "hidden_features": tuple(hidden_dims), **splines}
    if kind in ("spline", "maf") or size == 1:
        return library.flows.MAF(size, **how).transform
    flow = library.flows.NICE(size, **how).transform
    flow.transforms = nn.ModuleList(_Coupling(layer, i % 2) for i, layer in enumerate(flow.transforms))
    return flow


class _Coupling(nn.Module):
    """One of zuko's coupling layers, whose halves are every other number: what a graph can be recorded of."""

    def __init__(self, layer: Any, kept: int) -> None:
        super().__init__()
        self.layer, self.kept = layer, kept

    def forward(self, context: Tensor | None = None) -> Transform:
        return _Halves(partial(self.layer.meta, context), self.kept)


class _Halves(Transform):
    """y_a = x_a, y_b = f(y_b | x_a) of every other number."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, meta: Any, kept: int) -> None:
        super().__init__()
        self.meta, self.a, self.b = meta, slice(kept, None, 2), slice(1 - kept, None, 2)

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        kept = y[..., self.a]
        return self._joined(kept, self.meta(kept).inv(y[..., self.b]), y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept = x[..., self.a]
        moved, ladj = self.meta(kept).call_and_ladj(x[..., self.b])
        return self._joined(kept, moved, x), ladj

    def _joined(self, kept: Tensor, moved: Tensor, like: Tensor) -> Tensor:
        shape = Size((*moved.shape[:-1], like.shape[-1]))
        joined = like.new_empty(shape)
        joined[..., self.a], joined[..., self.b] = kept, moved
        return joined


class Bend(Transform):
    """A flow's transform for ``TransformedDistribution``: it remembers the Jacobian of what it has mapped last.

    Args:
        flow: what a module of :func:`make_flow` gives.
        backwards: take its inverse, so that *densities* are those that need one pass.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, flow: Any, *, backwards: bool = False) -> None:
        super().__init__(cache_size=1)
        self.flow, self.backwards = flow, backwards
        self._cached_ladj: Tensor | None = None

    def _call(self, x: Tensor) -> Tensor:
        self._cached_ladj = None
        if self.backwards:
            return self.flow.inv(x)
        y, self._cached_ladj = self.flow.call_and_ladj(x)
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        self._cached_ladj = None
        if not self.backwards:
            return self.flow.inv(y)
        x, ladj = self.flow.call_and_ladj(y)
        self._cached_ladj = -ladj
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log |det dy/dx|, ``(...)``."""
        seen_x, seen_y = self._cached_x_y
        if seen_x is x and seen_y is y and self._cached_ladj is not None:
            return self._cached_ladj
        return -self.flow.call_and_ladj(y)[1] if self.backwards else self.flow.call_and_ladj(x)[1]
