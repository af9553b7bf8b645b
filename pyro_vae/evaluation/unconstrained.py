"""Latent sites of a program as one vector of unconstrained numbers per particle and datum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import sum_rightmost
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints

from pyro_vae.errors import InputError
from pyro_vae.evaluation.nodes import in_data_plate, is_point_mass
from pyro_vae.traces import Site, is_latent


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
        trace: of the model, with latents of this many particles.
        num_particles, size: C, N.
        nesting: batch dimensions of the program's own plates.

    Raises:
        InputError: if a latent site is discrete, a point mass, or shared by all data.
    """

    def __init__(self, trace: Trace, num_particles: int, size: int, nesting: int) -> None:
        self.num_particles, self.size, self.nesting = num_particles, size, nesting
        self.parts: dict[str, Part] = {}
        start = 0
        for name, site in trace.nodes.items():
            if is_latent(site):
                _check_continuous(name, site)
                u = bijection(site).inv(site["value"])
                inner, event = self._split(u, site)
                width = math.prod(inner) * math.prod(event)
                self.parts[name] = Part(start, start + width, inner, event, u.dtype)
                start += width
        if not self.parts:
            raise InputError("the model has no latent site: its log p(x) is exact, nothing is to be annealed")
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
            u = u.reshape(self.num_particles, *part.inner, self.size, *part.event)
            vectors.append(u.movedim(1 + len(part.inner), 1).reshape(self.num_particles, self.size, -1))
        return torch.cat(vectors, -1)

    def value(self, name: str, vector: Tensor) -> Tensor:
        """A site's unconstrained value ``(C, *inner, N, *event)``, without C if there is one particle."""
        part = self.parts[name]
        u = vector[..., part.start : part.stop].to(part.dtype)
        u = u.reshape(self.num_particles, self.size, *part.inner, *part.event).movedim(1, 1 + len(part.inner))
        return u if self.num_particles > 1 else u.squeeze(0)

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
    not wander off; being the same in all densities, it changes no weight.

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
        u = self.layout.value(msg["name"], self.vector).reshape(*fn.batch_shape, *event)
        transform = bijection(msg)
        msg["value"], msg["done"] = transform(u), True
        masks = [mask for mask in (msg["mask"], *_masks(fn)) if mask is not None and mask is not True]
        if masks or not _is_identity(transform):
            log_det = transform.log_abs_det_jacobian(u, msg["value"])
            log_det = sum_rightmost(log_det, log_det.dim() - len(fn.batch_shape))
            for mask in masks:
                kept = torch.as_tensor(mask, device=u.device)
                log_det = torch.where(kept, log_det, -0.5 * sum_rightmost(u.square(), len(event)))
            self.log_det[msg["name"]] = log_det


def bijection(site: Site) -> Transform:
    """The map from unconstrained numbers to a site's support.

    Raises:
        InputError: if none is known for its distribution.
    """
    try:
        return biject_to(without_mixtures(site["fn"].support))
    except NotImplementedError as error:
        raise InputError(
            f"latent site '{site['name']}': for the support of {type(site['fn']).__name__} no map from unconstrained "
            f"numbers is known ({error})"
        ) from error


def without_mixtures(support: Any) -> Any:
    """A support; of a mixture that of its components, which is the same."""
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        return without_mixtures(support.base_constraint)
    if isinstance(support, constraints.independent):
        return constraints.independent(without_mixtures(support.base_constraint), support.reinterpreted_batch_ndims)
    return support


def _masks(fn: Any) -> Iterator[Any]:
    """Masks inside a distribution's wrappers."""
    while hasattr(fn, "base_dist"):
        if isinstance(fn, MaskedDistribution):
            yield fn._mask
        fn = fn.base_dist


def _is_identity(transform: Any) -> bool:
    """Whether a transform leaves its input as it is: torch's empty composition, also for independent dimensions."""
    while isinstance(transform, torch.distributions.transforms.IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, torch.distributions.ComposeTransform) and not transform.parts


def _check_continuous(name: str, site: Site) -> None:
    if not in_data_plate(site):
        raise InputError(
            f"latent site '{name}' is outside the data plate: a bound per datum is not defined for a latent that "
            "all data share"
        )
    fn = site["fn"]
    if is_point_mass(fn):
        raise InputError(
            f"latent site '{name}' is a point mass, which has no density to be annealed; use log_likelihood"
        )
    if getattr(fn, "has_enumerate_support", False) or fn.support.is_discrete:
        raise InputError(
            f"latent site '{name}' is discrete ({type(fn).__name__}): annealing moves latents along gradients and "
            "needs continuous ones; use log_likelihood"
        )
