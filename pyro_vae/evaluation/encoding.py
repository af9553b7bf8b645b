"""Latents of data under the guide: means, draws, and the directions in which they spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.data import DataLike
from pyro_vae.errors import InputError
from pyro_vae.programs.checks import check_context, check_present, data_type
from pyro_vae.programs.context import X
from pyro_vae.programs.handlers import AtMean
from pyro_vae.programs.program import as_programs, prime
from pyro_vae.programs.session import as_split, check_pair, in_evaluation
from pyro_vae.programs.sites import (
    data_first,
    deviation_or_none,
    elementwise_support,
    in_data_plate,
    is_discrete,
    is_point_mass,
    kept,
    masked_like,
    mean_or_none,
)
from pyro_vae.programs.traces import Site, is_latent, traced

NO_FREE_SITE = "no latent site has real values of its own"  # says why, where free_sites is empty
UNOBSERVED = "_unobserved"  # ends the name of what Pyro draws where an obs_mask is False


def encode(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    batch_size: int = 500,
    seed: int = 0,
    sites: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """The guide's mean E_q[z | x] of every latent site, for every datum.

    A site that depends on other latents has its mean given their draws. A distribution without a mean (of integers,
    codes) gives its draw. Left out: sites that all data share, and those only the guide has
    (``infer={"is_auxiliary": True}``).

    Args:
        model: generative program (shares its parameters with a guide that is a plain function).
        guide: its guide.
        data: a split, a dict of tensors, or the tensor x; of a whole dataset the test part, else validation.
        batch_size: data encoded at once.
        seed: of the draws; the global random state is left as it was.
        sites: those to keep; all if None.

    Returns:
        ``(num_data, *event)`` by site name, on the CPU.

    Raises:
        InputError: if batch_size is not positive, or the guide samples nothing per datum.

    Example:
        >>> import torch, pyro_vae
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> pyro_vae.encode(model, guide, x)["z"].shape
        torch.Size([20, 2])
    """
    found = _collect(model, guide, data, _mean_or_draw, nullcontext(), batch_size, seed, sites)
    return {name: value for (name, _), value in found.items()}


def posterior_moments(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    batch_size: int = 500,
    seed: int = 0,
    sites: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    r"""Mean and scale of every latent site under the guide, for every datum: ``z.mean`` and ``z.scale``.

    The scale is the standard deviation of each number, :math:`\sqrt{\mathrm{Var}_q[z_i \mid x]}`; a distribution
    without a variance, and one of angles, has none. A site without a mean (of integers, codes), and a point mass, has
    its value under its own name: ``codes``. A site that depends on other latents has its moments given their draws.
    What a mask of the guide or the model leaves out (steps beyond a sequence's end, a label that is known) is NaN, of
    integers too, which are float64 then. Left out is what :func:`encode` leaves out.

    Args:
        model, guide, data, batch_size, seed, sites: as for :func:`encode`, whose means these are.

    Returns:
        ``(num_data, *event)`` by name, on the CPU.

    Raises:
        InputError: as :func:`encode`.

    Example:
        >>> import torch, pyro_vae
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> {name: tuple(value.shape) for name, value in pyro_vae.posterior_moments(model, guide, x).items()}
        {'z.mean': (20, 2), 'z.scale': (20, 2)}
    """
    found = _collect(model, guide, data, _moments, nullcontext(), batch_size, seed, sites, masked=True)
    named = {f"{name}{what}": value for (name, what), value in found.items()}
    if len(named) < len(found):
        sites_found = ", ".join(dict.fromkeys(name for name, _ in found))
        raise InputError(f"sites {sites_found}: one has the name of another's mean or scale; rename it")
    return named


def posterior_samples(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    batch_size: int = 500,
    seed: int = 0,
    sites: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """One joint draw z ~ q(z | x) of all latent sites for every datum; arguments and result as for :func:`encode`."""
    found = _collect(model, guide, data, _value_of, nullcontext(), batch_size, seed, sites)
    return {name: value for (name, _), value in found.items()}


def mean_path(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    batch_size: int = 500,
    seed: int = 0,
    sites: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    r"""The guide without its noise: every site at its mean given those before it, so that their values fit together.

    .. math:: \hat z_i = E_q[z_i \mid \hat z_1, \dots, \hat z_{i-1}, x] \quad \text{in the guide's order}

    A distribution without a mean, and a discrete one, gives its draw. What stands for the part of a site that is not
    observed (``obs_mask``) is left out: a model without data has no such site. Arguments and result as for
    :func:`encode`.
    """
    found = _collect(model, guide, data, _value_of, AtMean(), batch_size, seed, sites)
    return {name: value for (name, _), value in found.items() if not name.endswith(UNOBSERVED)}


def free_sites(
    model: Callable[..., Any], guide: Callable[..., Any], data: DataLike, *, counted: bool = False
) -> list[str]:
    """The latent sites that can be moved: real-valued (no one-hot vectors), and no functions of other latents.

    A site of the model that is a point mass (the vectors of codes) has no values beside those that the codes give it: a
    point between two of them, or a density over them, means nothing.

    Args:
        model, guide, data: as for :func:`encode`; two data are looked at.
        counted: also sites of a single integer per datum, whose values can be counted.

    Returns:
        names, in the order in which the model draws them.
    """
    split = as_split(data, model, guide)
    programs = as_programs(model, guide)
    with in_evaluation(programs, split.batch(slice(0, 2)), seed=0) as batch:
        for program, who in zip(programs, ("model", "guide"), strict=True):
            check_present(program, batch, who)
        model_trace, guide_trace = prime(*programs, batch)
    found = []
    for name in model_trace.nodes:
        node = guide_trace.nodes.get(name)
        if name.endswith(UNOBSERVED) and name.removesuffix(UNOBSERVED) in model_trace.nodes:
            continue  # what is missing of data
        if node is not None and is_latent(node) and in_data_plate(node):
            value, fn = data_first(node["value"], node), model_trace.nodes[name]["fn"]
            real = value.is_floating_point() and not is_discrete(fn)
            if (real or (counted and value.dim() == 1)) and not is_point_mass(fn):
                found.append(name)
    return found


def has_latents(model: Callable[..., Any], guide: Callable[..., Any], data: DataLike) -> bool:
    """Whether the model has latents at all; data as for :func:`encode`, of which two are looked at."""
    programs = as_programs(model, guide)
    with in_evaluation(programs, as_split(data, model, guide).batch(slice(0, 2)), seed=0) as batch:
        traces = [prune_subsample_sites(trace) for trace in prime(*programs, batch)]
    return any(is_latent(site) for trace in traces for site in trace.nodes.values())


def tied_sites(model: Callable[..., Any], guide: Callable[..., Any], data: DataLike) -> dict[str, Any]:
    """The latent sites whose numbers are tied to one another, as on a simplex or a sphere, with their supports.

    None of the numbers can be moved by itself, and a point between two values need not be one.
    """
    programs = as_programs(model, guide)
    with in_evaluation(programs, as_split(data, model, guide).batch(slice(0, 2)), seed=0) as batch:
        nodes = prime(*programs, batch)[0].nodes
    latent = {name: site["fn"] for name, site in nodes.items() if is_latent(site)}
    supports = {name: elementwise_support(fn) for name, fn in latent.items()}
    return {name: support for name, support in supports.items() if support is not None and support.event_dim}


def _collect(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    read: Callable[[Site], dict[str, Tensor]],
    handler: AbstractContextManager,
    batch_size: int,
    seed: int,
    sites: Sequence[str] | None,
    masked: bool = False,
) -> dict[tuple[str, str], Tensor]:
    """What ``read`` gives of every latent site of the guide, by site and by what that is, run under a handler.

    If ``masked``, the model is run as well, and the guide's sites have its masks.
    """
    split = as_split(data, model, guide)
    programs = as_programs(model, guide)
    parts: dict[tuple[str, str], list[Tensor]] = {}
    read_of: dict[str, set[str]] = {}
    with in_evaluation(programs, {X: split.batch(slice(0, 1))[X]}, seed) as first:
        check_pair(*programs, split, same_sites=False)
        split = split.to(split.device, data_type(*programs, split))
        for batch in split.batches(batch_size):
            check_present(programs[1], batch, "guide")
            check_context(programs[1], batch)
            batch = {name: value.to(first[X].device) for name, value in batch.items()}
            with handler:
                trace = traced(programs[1], **batch)
            model_nodes = traced(poutine.replay(programs[0], trace=trace), **batch).nodes if masked else {}
            for name, node in trace.nodes.items():
                wanted = sites is None or name in sites
                if wanted and is_latent(node) and in_data_plate(node) and not node["infer"].get("is_auxiliary"):
                    found = read(masked_like(node, model_nodes[name]) if name in model_nodes else node)
                    if read_of.setdefault(name, {*found}) != {*found}:
                        raise InputError(
                            f"site '{name}': its distribution has a mean or a variance for some data and none (NaN) "
                            "for others, so that one number for all would mean two things: give the guide a "
                            "distribution that has them for all, or take draws (posterior_samples)"
                        )
                    for what, value in found.items():
                        parts.setdefault((name, what), []).append(value.cpu())
    if not parts:
        raise InputError("the guide samples no latent site in a plate at dim -1: there is nothing to encode into")
    return {name: torch.cat(values) for name, values in parts.items()}


MEAN, SCALE = ".mean", ".scale"


def _value_of(node: Site) -> dict[str, Tensor]:
    return {"": data_first(node["value"], node)}


def _mean_or_draw(node: Site) -> dict[str, Tensor]:
    mean = mean_or_none(node["fn"])
    return _value_of(node) if mean is None else {MEAN: data_first(mean, node)}


def _moments(node: Site) -> dict[str, Tensor]:
    """Mean and scale, the mean alone, or a value; NaN where a mask leaves out numbers."""
    found = _value_of(node) if is_point_mass(node["fn"]) else _mean_or_draw(node)
    scale = None if MEAN not in found else deviation_or_none(node["fn"])
    if scale is not None:
        found[SCALE] = data_first(scale, node)
    mask = kept(node)
    if mask is None or (there := data_first(mask, node)).all():
        return found
    reals = {k: v if v.is_floating_point() else v.double() for k, v in found.items()}  # integers have no NaN
    return {k: v.masked_fill(~there, torch.nan) for k, v in reals.items()}


class PrincipalComponents(NamedTuple):
    """Principal components of a cloud of points.

    Attributes:
        scores: coordinates of the centred points, ``(num_data, k)``.
        directions: orthonormal columns, ``(dim, k)``.
        explained: part of the total variance in each component, ``(k,)``, in [0, 1].
    """

    scores: Tensor
    directions: Tensor
    explained: Tensor


def principal_components(z: Tensor, k: int = 2) -> PrincipalComponents:
    """The k orthogonal directions of greatest variance: ``z - mean = U S V^T``, scores ``U S``, directions ``V``.

    Each direction's sign is such that its largest entry by magnitude is positive.

    Args:
        z: points, ``(num_data, dim)``.
        k: number of components.

    Raises:
        InputError: if z is no matrix of at least two points, or k is more than there are data or dimensions.

    Source: Pearson 1901, doi:10.1080/14786440109462720.
    """
    if z.dim() != 2 or len(z) < 2:
        raise InputError(f"z must have shape (num_data, dim) with at least 2 data, got {tuple(z.shape)}")
    if not 1 <= k <= min(z.shape):
        raise InputError(f"k must be in 1 ... {min(z.shape)} (the least side of z, {tuple(z.shape)}), got {k}")
    dtype = z.dtype if z.is_floating_point() else torch.float32
    centred = z.double() - z.double().mean(0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:k].T  # (dim, k)
    largest = directions.abs().argmax(0, keepdim=True)  # (1, k)
    directions = directions * directions.gather(0, largest).sign()
    scores = centred @ directions  # (num_data, k)
    explained = scores.square().sum(0) / centred.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
    return PrincipalComponents(scores.to(dtype), directions.to(dtype), explained.to(dtype))
