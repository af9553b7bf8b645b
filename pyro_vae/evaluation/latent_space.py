"""Interpolation between points of latent space, and directions that stand for attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.errors import InputError, NotApplicable, positive, unknown
from pyro_vae.evaluation.encoding import NO_FREE_SITE, free_sites, mean_path, tied_sites
from pyro_vae.evaluation.generate import decode
from pyro_vae.programs.program import Batch

Kind = Literal["linear", "spherical"]


def interpolate(a: Tensor, b: Tensor, steps: int, kind: Kind = "spherical") -> Tensor:
    r"""Points on the way from a to b, at t = 0 ... 1 with even distances.

    .. math:: (1 - t) a + t b \qquad\text{or}\qquad
       \frac{\sin((1 - t)\omega)}{\sin\omega} a + \frac{\sin(t\omega)}{\sin\omega} b

    with omega the angle between a and b, seen from the origin. Where it is 0 or 180 degrees (to rounding), or
    one of them is the origin, the spherical way is the linear one. Its ends are a and b to the last bit.

    Args:
        a, b: ``(batch, *event)``, floating point; the angle is that of the flattened events.
        steps: points, both ends included.
        kind: ``"linear"`` or ``"spherical"``. Samples of a Gaussian in many dimensions have nearly equal norms,
            which the spherical way keeps.

    Returns:
        ``(batch, steps, *event)``.

    Raises:
        InputError: for an unknown kind, fewer than 2 steps, unequal shapes, and integers.

    Source: Shoemake 1985, doi:10.1145/325334.325242; in latent spaces White 2016, arXiv:1609.04468.
    """
    if kind not in ("linear", "spherical"):
        raise unknown("kind of interpolation", kind, ("linear", "spherical"))
    if positive("steps", steps) < 2:
        raise InputError("steps must be at least 2, for both ends")
    if a.shape != b.shape or a.dim() == 0:
        raise InputError(f"a and b must have one shape (batch, ...), got {tuple(a.shape)} and {tuple(b.shape)}")
    if not (a.is_floating_point() and b.is_floating_point()):
        raise InputError(f"there is nothing between integers: a and b must be floating point, got {a.dtype}, {b.dtype}")
    start, end = (v.reshape(len(v), 1, -1).double() for v in (a, b))  # (batch, 1, dim)
    t = torch.linspace(0, 1, steps, dtype=torch.float64, device=a.device)[:, None]  # (steps, 1)
    from_a, from_b = 1 - t, t
    if kind == "spherical":
        norms = start.norm(dim=-1, keepdim=True) * end.norm(dim=-1, keepdim=True)
        cosine = (start * end).sum(-1, keepdim=True) / norms
        angle = cosine.clamp(-1, 1).arccos()  # (batch, 1, 1)
        curved = angle.sin() > 1e-6
        from_a = torch.where(curved, ((1 - t) * angle).sin() / angle.sin(), from_a)
        from_b = torch.where(curved, (t * angle).sin() / angle.sin(), from_b)
    path = (from_a * start + from_b * end).to(a.dtype).reshape(len(a), steps, *a.shape[1:])
    return torch.cat([a.unsqueeze(1), path[:, 1:-1], b.to(a.dtype).unsqueeze(1)], 1)


class Paths(NamedTuple):
    """Ways through latent space.

    Attributes:
        latents: ``(batch, steps, *event)`` by site: what :func:`decode_path` takes.
        kind: which way was gone.
    """

    latents: dict[str, Tensor]
    kind: Kind


def paths_between(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    a: Batch,
    b: Batch,
    steps: int,
    *,
    kind: Kind = "spherical",
    sites: Sequence[str] | None = None,
    seed: int = 0,
) -> Paths:
    """Latents on the way from data to other data, between the means of the guide.

    Args:
        model, guide: Pyro programs.
        a, b: data to begin and to end with, ``(batch, ...)`` each.
        steps: points, both ends included.
        kind: see :func:`interpolate`; on a simplex linear, for the other way leaves it.
        sites: latent sites to move; all with real values that are no functions of others, if None.
        seed: of the draws of sites without a mean.

    Raises:
        NotApplicable: if no latent has real values of its own (as of codes), or the way leaves their support.
        InputError: for an unknown site or kind, fewer than 2 steps, a and b of different lengths.

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.evaluation.latent_space import decode_path, paths_between
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> a, b = ({"x": (torch.rand(3, 1, 8, 8) > 0.5).float()} for _ in range(2))
        >>> path, _ = paths_between(model, guide, a, b, steps=5)
        >>> path["z"].shape, decode_path(model, path).shape
        (torch.Size([3, 5, 2]), torch.Size([3, 5, 1, 8, 8]))
    """
    chosen = list(sites) if sites else free_sites(model, guide, a)
    if not chosen:
        raise NotApplicable(NO_FREE_SITE)
    starts, ends = (mean_path(model, guide, data, seed=seed) for data in (a, b))
    for name in chosen:
        if name not in starts:
            raise unknown("latent site", name, starts)
    tied = tied_sites(model, guide, a)
    kind = "linear" if any(isinstance(tied.get(name), type(constraints.simplex)) for name in chosen) else kind
    path = {name: interpolate(starts[name], ends[name], steps, kind) for name in chosen}
    for name in chosen:
        if name in tied and not bool(tied[name].check(path[name]).all()):
            raise NotApplicable(f"the way from one value of '{name}' to another leaves their support ({tied[name]})")
    return Paths(path, kind)


def decode_path(
    model: Callable[..., Any],
    path: Mapping[str, Tensor],
    *,
    seed: int = 0,
    site: str | None = None,
    batch: Batch | None = None,
    **how: Any,
) -> Tensor:
    """Means of p(x | .), of tokens draws, along paths in latent space; what is drawn has one noise along a path.

    Args:
        model: generative program.
        path: latent sites' values, ``(batch, steps, *event)``, as from :func:`interpolate`.
        seed: of the draws.
        site: the data site; found, if None.
        batch: context that the model is given, ``(batch, ...)`` each; and ``x``, as for
            :func:`~pyro_vae.evaluation.generate.sample`.
        how: temperature, top_k, top_p and beams of what is drawn, as there.

    Returns:
        ``(batch, steps, *event)``, on the CPU.

    Raises:
        InputError: as :func:`~pyro_vae.evaluation.generate.decode`; for paths of different lengths.
    """
    lengths = {name: value.shape[1] for name, value in path.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"the paths must have one number of steps, got {lengths or 'nothing'}")
    steps = range(next(iter(lengths.values())))
    places = [{name: value[:, i] for name, value in path.items()} for i in steps]
    return torch.stack([decode(model, place, seed=seed, site=site, batch=batch, **how) for place in places], 1)


class AttributeVectors(NamedTuple):
    """A direction per attribute.

    Attributes:
        names: the classes, in order, or the columns of the attribute matrix.
        vectors: ``(attributes, *event)``.
    """

    names: list[int]
    vectors: Tensor


def attribute_vectors(z: Tensor, labels: Tensor) -> AttributeVectors:
    r"""The vector that leads from data without an attribute to those with it.

    .. math:: v_a = E[z \mid a] - E[z \mid \neg a]

    Args:
        z: latents of labelled data, ``(num_data, *event)``.
        labels: integer classes ``(num_data,)``: an attribute for every class that occurs; or 0s and 1s
            ``(num_data, attributes)``: one for every column.

    Raises:
        InputError: for labels of another kind or length, and an attribute that all data have, or none.

    Source: Larsen et al. 2016, arXiv:1512.09300; Hou et al. 2016, arXiv:1610.00291; of measured numbers (more notes than
    others have) Roberts et al. 2018, arXiv:1803.05428.

    Example:
        Of a number that each datum has, such as its length, the attribute is to have more of it than the median:

        >>> import torch
        >>> from pyro_vae.evaluation.latent_space import attribute_vectors
        >>> z, length = torch.tensor([[0.0, 1.0], [1.0, 0.0], [4.0, 1.0], [5.0, 0.0]]), torch.tensor([3, 4, 9, 8])
        >>> attribute_vectors(z, (length > length.double().median()).long()[:, None]).vectors
        tensor([[4., 0.]])
    """
    names, has = _indicators(labels)  # (num_data, attributes)
    if len(labels) != len(z):
        raise InputError(f"there are {len(labels)} labels for {len(z)} data")
    has = has.to(z.device, torch.float64)
    count = has.sum(0)
    for name, n in zip(names, count.tolist(), strict=True):
        if n in (0, len(z)):
            who = "all" if n else "none"
            raise InputError(f"attribute {name}: {who} of the {len(z)} data have it, its vector needs both kinds")
    points = z.flatten(1).double() if z.dim() > 1 else z.double()[:, None]
    centred = points - points.mean(0)
    inside = has.T @ centred  # (attributes, dim)
    outside = (1 - has).T @ centred
    vectors = inside / count[:, None] - outside / (len(z) - count)[:, None]
    dtype = z.dtype if z.is_floating_point() else torch.float32
    return AttributeVectors(names, vectors.to(dtype).reshape(len(names), *z.shape[1:]))


def attribute_correlation(vectors: Tensor) -> Tensor:
    r"""Pearson's correlation of attribute vectors over the units of latent space.

    .. math:: R_{ab} = \frac{\langle v_a - \bar v_a,\, v_b - \bar v_b \rangle}{|v_a - \bar v_a| |v_b - \bar v_b|}

    Args:
        vectors: ``(attributes, *event)``; of several sites, flattened and side by side.

    Returns:
        ``(attributes, attributes)``, in [-1, 1], with a diagonal of 1.

    Raises:
        InputError: for fewer than 3 units (the correlation of two numbers is always 1 or -1), and a vector whose units
            are all equal.

    Source: Hou et al. 2016, arXiv:1610.00291.
    """
    if vectors.dim() < 2 or vectors[0].numel() < 3:
        raise InputError(f"correlations need vectors of at least 3 units, got shape {tuple(vectors.shape)}")
    points = vectors.flatten(1).double()
    centred = points - points.mean(1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    if bool((norms <= 1e-12 * points.norm(dim=1, keepdim=True)).any()):
        which = (norms <= 1e-12 * points.norm(dim=1, keepdim=True)).flatten().nonzero()[0].item()
        raise InputError(f"attribute vector {which} is the same in all units: its correlation is not defined")
    unit = centred / norms
    return (unit @ unit.T).clamp(-1, 1).to(vectors.dtype)


def _indicators(labels: Tensor) -> tuple[list[int], Tensor]:
    """Which data have which attribute, ``(num_data, attributes)`` bool, and the attributes' names."""
    if labels.dim() == 1 and not labels.is_floating_point() and labels.dtype != torch.bool:
        classes = labels.unique()
        return classes.tolist(), labels[:, None] == classes
    if labels.dim() == 2 and bool(((labels == 0) | (labels == 1)).all()):
        return list(range(labels.shape[1])), labels == 1
    raise InputError(
        "labels must be integer classes (num_data,) or a matrix (num_data, attributes) of 0s and 1s, got "
        f"{labels.dtype} of shape {tuple(labels.shape)}"
    )
