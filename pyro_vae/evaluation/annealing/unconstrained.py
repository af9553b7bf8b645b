"""Latent sites of a program as one vector of unconstrained numbers per particle and datum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import sum_rightmost
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.transforms import ComposeTransform, IndependentTransform

from pyro_vae.errors import InputError
from pyro_vae.programs.program import Batch, Program
from pyro_vae.programs.sites import ANGLE, REAL, elementwise, kept, masks_of, of_angles
from pyro_vae.programs.traces import Site, TracePair, is_latent, traced

DRAWS = 1000  # of the prior, where bounds alone do not tell


def support_of(fn: Any) -> Any:
    """A distribution's support; of angles their range, and of a mixture that of its components, which is the same."""
    if of_angles(fn):
        return constraints.independent(ANGLE, fn.event_dim) if fn.event_dim else ANGLE
    return _without_mixtures(fn.support)


def check_covered(pair: TracePair, model: Program, batch: Batch) -> None:
    """Check that at every latent site the guide's support covers the model's.

    By the bounds of both where they are intervals of numbers, else by draws of the prior.

    Raises:
        InputError: names a site where it does not: estimates from such a guide miss a part of p(x).
    """
    sites = {
        name: (support_of(q["fn"]), support_of(p["fn"])) for name, (q, p) in pair.latent().items() if p is not None
    }
    unsure = []
    for name, (q, p) in sites.items():
        bounds = _bounds(q), _bounds(p)
        if bounds[0] is None or bounds[1] is None:
            unsure.append(name)
            continue
        low, high = ((a - b) for a, b in zip(*bounds, strict=True))
        if bool((low.nan_to_num() > 0).any()) or bool((high.nan_to_num() < 0).any()):  # inf - inf: both unbounded
            raise _too_small(name, q, p)
    if not unsure:
        return
    row = {name: value[:1].expand(DRAWS, *value.shape[1:]) for name, value in batch.items()}
    drawn = traced(model, **row)
    for name in unsure:
        q, p = sites[name]
        if not bool(q.check(drawn.nodes[name]["value"]).all()):
            raise _too_small(name, q, p)


def _without_mixtures(support: Any) -> Any:
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        return _without_mixtures(support.base_constraint)
    if isinstance(support, constraints.independent):
        return constraints.independent(_without_mixtures(support.base_constraint), support.reinterpreted_batch_ndims)
    return support


def _bounds(support: Any) -> tuple[Tensor, Tensor] | None:
    """Least and greatest value of each number, or None where that does not say all."""
    support = elementwise(support)
    if support in REAL:
        return torch.tensor(-torch.inf), torch.tensor(torch.inf)
    known = {"lower_bound": -torch.inf, "upper_bound": torch.inf}
    if not any(hasattr(support, name) for name in known):
        return None
    low, high = (torch.as_tensor(getattr(support, name, end)) for name, end in known.items())
    return low, high


def _too_small(name: str, q: Any, p: Any) -> InputError:
    return InputError(
        f"latent site '{name}': the guide's support, {q}, does not cover the model's, {p}: what it cannot draw "
        "would be missing from the estimate; give the guide a distribution on the same support, or anneal with "
        'start="prior"'
    )


@dataclass(frozen=True)
class Part:
    """Where a latent site is in the vector.

    Attributes:
        start, stop: its range.
        inner: sizes of the batch dimensions between particles and data.
        event: shape of the unconstrained value.
        dtype: of the site's value.
    """

    start: int
    stop: int
    inner: tuple[int, ...]
    event: tuple[int, ...]
    dtype: torch.dtype


class Layout:
    """Which numbers of the vectors ``(particles, N, D)`` are which latent site's.

    Args:
        trace: of the model, with latents of this many particles; its latents are continuous.
        num_particles, size: C, N.
        nesting: batch dimensions of the program's own plates.
        summed: latent sites that are summed over, and so are no part of the vectors.

    Raises:
        InputError: if there is no latent site, or one with a support that no map to real numbers is known for.
    """

    def __init__(
        self, trace: Trace, num_particles: int, size: int, nesting: int, summed: frozenset[str] = frozenset()
    ) -> None:
        self.num_particles, self.size, self.nesting = num_particles, size, nesting
        self.parts: dict[str, Part] = {}
        start = 0
        for name, site in trace.nodes.items():
            if is_latent(site) and name not in summed:
                u = bijection(site).inv(site["value"])
                inner, event = self._split(u, site)
                width = math.prod(inner) * math.prod(event)
                self.parts[name] = Part(start, start + width, inner, event, u.dtype)
                start += width
        if not self.parts:
            what = f"no latent site but {', '.join(sorted(summed))}, summed over" if summed else "no latent site"
            raise InputError(f"the model has {what}: its log p(x) is exact, nothing is to be annealed")
        self.dim = start

    def vector(self, trace: Trace) -> Tensor:
        """The vectors ``(C, N, D)`` of the values in a trace of the model, with the sites' supports there.

        Raises:
            InputError: if a value is outside the model's support.
        """
        vectors = []
        for name, part in self.parts.items():
            site = trace.nodes[name]
            u = bijection(site).inv(site["value"])
            if not bool(u.isfinite().all()):
                raise InputError(f"latent site '{name}': a value is outside, or on the edge of, the model's support")
            vectors.append(self._flat(u, part))
        return torch.cat(vectors, -1)

    def left_out(self, trace: Trace) -> Tensor | None:
        """Which numbers of the vectors ``(C, N, D)`` masks leave out in a trace of the model; None: none of them."""
        masks = {name: kept(trace.nodes[name]) for name in self.parts}
        if all(mask is None for mask in masks.values()):
            return None
        flat = []
        for name, part in self.parts.items():
            site, mask = trace.nodes[name], masks[name]
            shape = site["fn"].batch_shape + part.event
            if mask is None:
                mask = torch.ones(shape, dtype=torch.bool, device=site["value"].device)
            elif mask.shape != shape:  # of an event that is counted, or left out, as a whole
                mask = mask[(..., *[slice(0, 1)] * len(part.event))].expand(shape)
            flat.append(self._flat(~mask, part))
        return torch.cat(flat, -1)

    def value(self, name: str, vector: Tensor) -> Tensor:
        """A site's unconstrained value ``(C, *inner, N, *event)``, without C if there is one particle."""
        part = self.parts[name]
        u = vector[..., part.start : part.stop].to(part.dtype)
        u = u.reshape(self.num_particles, self.size, *part.inner, *part.event).movedim(1, 1 + len(part.inner))
        return u if self.num_particles > 1 else u.squeeze(0)

    def _flat(self, value: Tensor, part: Part) -> Tensor:
        """A site's tensor ``(C, *inner, N, *event)`` as ``(C, N, numbers)``."""
        value = value.reshape(self.num_particles, *part.inner, self.size, *part.event)
        return value.movedim(1 + len(part.inner), 1).reshape(self.num_particles, self.size, -1)

    def _split(self, u: Tensor, site: Site) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Sizes of the inner batch dimensions, and the event shape, of an unconstrained value."""
        events = u.dim() - len(site["fn"].batch_shape)
        shape = tuple(u.shape[: u.dim() - events])
        rank = self.nesting + (self.num_particles > 1)
        shape = (1,) * (rank - len(shape)) + shape
        return shape[1 if self.num_particles > 1 else 0 : -1], tuple(u.shape[u.dim() - events :])


class Unconstrained(Messenger):
    r"""Gives latent sites the values T(u) of unconstrained u, and sums log |det dT/du|.

    What a mask leaves out has no density. There -|u|^2 / 2 stands in the place of log |det dT/du|, so that chains do
    not wander off; being the same in all densities, it changes no weight (of chains that start there at N(0, 1)).

    Args:
        layout: where the sites' u are.
        vector: ``(C, N, D)``.

    Attributes:
        log_det: of each site, with the batch shape of its value; none of sites that are unconstrained as they are.
    """

    def __init__(self, layout: Layout, vector: Tensor) -> None:
        super().__init__()
        self.layout, self.vector = layout, vector
        self.log_det: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["name"] not in self.layout.parts:
            return
        fn, event = msg["fn"], self.layout.parts[msg["name"]].event
        left = max(0, len(fn.batch_shape) - self.layout.nesting - 1)  # dimensions of what is summed over
        u = self.layout.value(msg["name"], self.vector).reshape(*fn.batch_shape[left:], *event)
        transform = bijection(msg)
        msg["value"], msg["done"] = transform(u), True
        if left and msg["value"].dim() > u.dim():
            raise InputError(
                f"latent site '{msg['name']}' has a support that depends on a latent that is summed over: it cannot be "
                "annealed; use log_likelihood"
            )
        masks = masks_of(msg)
        if masks or not _is_identity(transform):
            self.log_det[msg["name"]] = _log_det(transform, u, msg["value"], masks, len(fn.batch_shape) - left)


def _log_det(transform: Transform, u: Tensor, value: Tensor, masks: list, rank: int) -> Tensor:
    """log |det dT/du| with the stand-in for what masks leave out, summed to a site's batch shape.

    Args:
        transform: T.
        u, value: u and T(u).
        masks: the outermost first (:func:`~pyro_vae.programs.sites.masks_of`).
        rank: dimensions of the batch shape.
    """
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform  # each number's own, where they are independent
    log_det, instead = transform.log_abs_det_jacobian(u, value), -0.5 * u.square()
    for mask, more in reversed(masks):
        log_det, instead = (sum_rightmost(t, t.dim() - rank - more) for t in (log_det, instead))
        log_det = torch.where(torch.as_tensor(mask, device=u.device).bool(), log_det, instead)
    return sum_rightmost(log_det, log_det.dim() - rank)


def bijection(site: Site) -> Transform:
    """The map from unconstrained numbers to a site's support.

    Raises:
        InputError: if none is known for its distribution.
    """
    try:
        return biject_to(support_of(site["fn"]))
    except NotImplementedError as error:
        raise InputError(
            f"latent site '{site['name']}': for the support of {type(site['fn']).__name__} no map from unconstrained "
            f"numbers is known ({error}): it cannot be annealed; use log_likelihood"
        ) from error


def _is_identity(transform: Any) -> bool:
    """Whether a transform leaves its input as it is: torch's empty composition, also for independent dimensions."""
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, ComposeTransform) and not transform.parts
