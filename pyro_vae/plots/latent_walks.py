"""Figures: interpolations between data, and traversals of single latent units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Pictures, Split
from pyro_vae.evaluation.encoding import NO_FREE_SITE, encode, free_sites, mean_path, posterior_samples, tied_sites
from pyro_vae.evaluation.latent_space import Kind, decode_path, paths_between
from pyro_vae.plots.images import grid, kind, pick, picked
from pyro_vae.plots.images import kind as kind_of
from pyro_vae.plots.registry import NotApplicable, check_drawable, figure
from pyro_vae.plots.view import View
from pyro_vae.programs.context import X, given_names
from pyro_vae.programs.program import as_programs, prime
from pyro_vae.programs.session import in_evaluation


@figure(section="Traversals", caption="From one datum to another through latent space.", order=1, pictures=True)
def interpolations(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    kind: Kind = "spherical",
    pairs: int = 8,
    steps: int = 9,
    sites: Sequence[str] | None = None,
    seed: int = 0,
    pictures: Pictures | None = None,
) -> Figure:
    """Rows of means of p(x | z), z on the way between the posterior means of two data, which stand at both ends.

    Args:
        model, guide: the programs; context that they need (labels) is that of the datum at the left.
        split: the data, of which ``2 * pairs`` at even distances are drawn.
        kind: ``"linear"`` or ``"spherical"``, see :func:`pyro_vae.evaluation.latent_space.interpolate`; on a simplex
            linear, for the other way leaves it.
        pairs: rows.
        steps: points on the way, both ends included.
        sites: latent sites to move; all with real values that are no functions of others, if None. The others are
            drawn from the model, with one noise for a row.
        seed: of draws.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: if there are no two data, no real-valued latents, or data that are neither images nor
            vectors.
        InputError: for an unknown site or kind, fewer than 2 steps, and a model that cannot be run without data.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 1, 8, 8) > 0.5})
        >>> len(pyro_vae.plots.interpolations(model, guide, split, pairs=2).axes)
        1
    """
    check_drawable(split.shape, pictures)
    batch = pick(split, 2 * pairs, seed)
    half = len(batch[X]) // 2
    if half < 1:
        raise NotApplicable("one datum only")
    left, right = ({name: value[i * half : (i + 1) * half] for name, value in batch.items()} for i in range(2))
    path, kind = paths_between(model, guide, left, right, steps, kind=kind, sites=sites, seed=seed)
    decoded = decode_path(model, path, seed=seed, batch=left)  # (half, steps, *event)
    at_left, at_right = (View(split.shape, side, pictures) for side in (left, right))
    ends = [view(side[X])[:, None] for view, side in ((at_left, left), (at_right, right))]  # (half, 1, *shape)
    values = torch.cat([ends[0], at_left(decoded, 2), ends[1]], 1)
    columns = ["datum", *(f"{i / (steps - 1):.3g}" for i in range(steps)), "datum"]
    moved = "" if sites is None else f" of {', '.join(path)}"
    given = ", ".join(given_names(model, left))
    title = f"{split.name}: {kind} interpolation{moved}, {kind_of(decoded)} of p(x | z{given and f', {given}'})"
    title += f"; {given} of the datum at the left" if given else ""
    return grid(values, title, columns=columns, limits=View(split.shape, batch, pictures).limits)


QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
ROWS = 10
NUM_ROWS = 64  # data that say how data look
NUM_ENCODED = 1000  # data over which the units' ranges are found


@figure(
    section="Traversals",
    caption="One unit at a time, moved over the quantiles of its draws over the data; all else as for one datum.",
    pictures=True,
)
def traversals(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    rows: int = ROWS,
    seed: int = 0,
    pictures: Pictures | None = None,
) -> Figure:
    r"""Rows of means of p(x | z), one unit of z moved over the quantiles of its draws z ~ q(z | x) over the data.

    The others of its site, and the sites before it in the model's order, stay where the guide has them for one datum
    (at the means along its path); the sites after it are drawn from the model, with one noise for all. Rows are the
    units that tell the data apart the most, by

    .. math:: \mathrm{Var}_x(E_q[z_d \mid x]) \,/\, \mathrm{Var}(z_d)

    which is 0 for a unit that the guide leaves at the prior and 1 for one without noise; as many of each site.

    Args:
        model, guide: the programs; context that they need (labels) is that of the datum.
        split: the data.
        rows: at most so many.
        seed: of draws.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: if there are no latents with real values of their own (as of codes), or the data are
            neither images nor vectors.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 1, 8, 8) > 0.5})
        >>> len(pyro_vae.plots.traversals(model, guide, split, rows=2).axes)
        1
    """
    check_drawable(split.shape, pictures)
    sites = free_sites(model, guide, split)[:rows]
    if not sites:
        raise NotApplicable(NO_FREE_SITE)
    tied = tied_sites(model, guide, split)
    sites = [name for name in sites if name not in tied]
    if not sites:
        raise NotApplicable(
            f"the numbers of a latent are tied to one another ({', '.join(f'{n}: {s}' for n, s in tied.items())}), so "
            "that none of them moves by itself"
        )
    some = picked(split, NUM_ENCODED, seed)
    means, draws = (f(model, guide, some, seed=seed, sites=sites) for f in (encode, posterior_samples))
    datum, stand_in = pick(split, 1, seed), some.batch(slice(0, NUM_ROWS))[X]
    held = mean_path(model, guide, datum, seed=seed)
    order = _order_in_model(model, guide, datum, held)
    values, names = [], []
    for site in sites:
        units = _most_telling(means[site], draws[site], rows // len(sites))
        before = {name: held[name] for name in order[: order.index(site)]}
        path = {site: _paths(held[site], draws[site], units)}  # (units, steps, *event)
        steps = len(QUANTILES)
        path |= {name: v.unsqueeze(1).expand(len(units), steps, *v.shape[1:]) for name, v in before.items()}
        context = {n: v.expand(len(units), *v.shape[1:]) for n, v in datum.items()} | {X: stand_in}
        decoded, view = decode_path(model, path, seed=seed, batch=context), View(split.shape, context, pictures)
        values.append(view(decoded, 2))  # (units, steps, *shape)
        names += [_name(site, unit, draws[site].shape[1:]) for unit in units]
    columns = [f"{100 * quantile:g}%" for quantile in QUANTILES]
    title = f"{split.name}: {kind(decoded)} of p(x | z),\none unit moved over the quantiles of its draws"  # pyright: ignore[reportPossiblyUnboundVariable]
    return grid(torch.cat(values), title, rows=names, columns=columns, limits=view.limits)  # pyright: ignore[reportPossiblyUnboundVariable]


def _order_in_model(
    model: Callable[..., Any], guide: Callable[..., Any], datum: dict[str, Tensor], held: dict[str, Tensor]
) -> list[str]:
    """The latent sites in the order in which the model draws them."""
    programs = as_programs(model, guide)
    with in_evaluation(programs, datum, seed=0) as batch:
        return [name for name in prime(*programs, batch)[0].nodes if name in held]


def _most_telling(means: Tensor, draws: Tensor, count: int) -> list[int]:
    """The units (of the flattened event) with the greatest share of their variance between data."""
    between, total = (v.double().reshape(len(v), -1).var(0) for v in (means, draws))  # (units,)
    share = between / total.clamp(min=torch.finfo(torch.float64).tiny)
    return share.argsort(descending=True, stable=True)[:count].tolist()


def _paths(held: Tensor, draws: Tensor, units: Sequence[int]) -> Tensor:
    """``(units, steps, *event)``: one datum's value, in row i with a unit at the quantiles of its draws."""
    levels = torch.tensor(QUANTILES, dtype=torch.float64)
    found = torch.quantile(draws.double().reshape(len(draws), -1)[:, list(units)], levels, dim=0).T  # (units, steps)
    path = held.flatten().repeat(len(units), len(QUANTILES), 1)  # (units, steps, size)
    path[torch.arange(len(units)), :, torch.tensor(units)] = found.to(path.dtype)
    return path.unflatten(-1, held.shape[1:]) if held.dim() > 1 else path.squeeze(-1)


def _name(site: str, unit: int, shape: Sequence[int]) -> str:
    place = [int(i) for i in torch.unravel_index(torch.tensor(unit), tuple(shape))] if len(shape) else []
    return site + (str(place).replace(" ", "") if place else "")
