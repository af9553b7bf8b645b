"""Figures: the aggregated posterior q(z) of the data against the prior p(z), as densities and as draws by class."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.evaluation.encoding import NO_FREE_SITE, free_sites, posterior_samples, principal_components
from pyro_vae.evaluation.generate import sample
from pyro_vae.plots.axes import MAX_CLASSES, class_colours, class_labels, class_legend, panels
from pyro_vae.plots.images import pick
from pyro_vae.plots.registry import NotApplicable, figure
from pyro_vae.programs.context import X, declared_context, needed_to_generate, num_classes
from pyro_vae.programs.program import Program, as_program
from pyro_vae.programs.session import generated, in_evaluation
from pyro_vae.programs.sites import in_data_plate
from pyro_vae.programs.traces import is_latent

POINTS = 100  # on a side of the plane
MASS = (0.5, 0.95)  # of the prior inside its contours


@figure(
    section="Latents",
    caption="Draws of q(z) over the data, coloured by label where they have labels, and the contours of p(z).",
    order=2,
)
def aggregated_posterior(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, num_draws: int = 5000, seed: int = 0
) -> Figure:
    r"""A panel per real-valued latent site: density of q(z) = E_x[q(z | x)] in colour, contours of p(z) over it.

    Both are estimated from draws, of the guide for the data and of the model without them, so that a prior that
    depends on other latents, p(z1 | z2), is seen as its marginal p(z1). Where the data have class labels, q(z) is shown
    by its draws, one a datum, in the labels' colours. More than two dimensions are shown in the principal plane of both
    clouds together, one as curves. Functions of other latents (the vectors of codes) have no density.

    Args:
        model, guide: the programs.
        split: the data, of which at most ``num_draws`` at even distances are used.
        num_draws: draws of q(z), from each datum about as many, and of p(z).
        seed: of the draws.

    Returns:
        the figure.

    Raises:
        NotApplicable: if there are too few data or no real-valued latents.
        InputError: for a model that cannot be run without data.

    Source: Hoffman & Johnson 2016, "ELBO surgery" (the aggregated posterior and its distance from the prior).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 1, 8, 8) > 0.5})
        >>> len(pyro_vae.plots.aggregated_posterior(model, guide, split, num_draws=100).axes)
        1
    """
    batch = pick(split, num_draws, seed)
    n = len(batch[X])
    if n < 3:
        raise NotApplicable(f"{n} data are too few")
    free = free_sites(model, guide, split)
    if not free:
        raise NotApplicable(NO_FREE_SITE)
    index = torch.arange(num_draws, device=split.device) % n
    repeated = {name: value[index] for name, value in batch.items()}
    posterior = posterior_samples(model, guide, repeated, seed=seed, sites=free)
    needed = {name for name in repeated if name in (X, *needed_to_generate(model, repeated))}
    prior = sample(model, num_draws, seed=seed, batch={name: repeated[name] for name in needed})
    labels = class_labels(batch)
    figure, places = panels(len(free), 4.2, 4.0)
    for axes, name in zip(places, free, strict=True):
        _draw(axes, name, *(v[name].reshape(len(v[name]), -1).double() for v in (posterior, prior)), labels)
    shares = " and ".join(f"{100 * mass:.0f} %" for mass in MASS)
    planes = any(posterior[name][0].numel() > 1 for name in free)
    coloured = labels is not None and planes
    what = "draws of q(z), one a datum, in its label's colour" if coloured else "aggregated posterior q(z)"
    handles = [Patch(color="0.5" if coloured else "C0", label=what)]
    text = f"prior p(z); in a plane, around {shares} of it" if planes else "prior p(z)"
    handles.append(Line2D([], [], color="C1", label=text))
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if len(free) > 1 else 1, fontsize="small")
    if labels is not None and coloured:
        class_legend(figure, labels)
    figure.suptitle(f"{split.name}: aggregated posterior of {n} data")
    return figure


@figure()
def draws_over_prior(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, max_points: int = 2000, seed: int = 0
) -> Figure:
    """A draw of q(z | x) of each datum, coloured by its label, over the density of p(z), for two-dimensional latents.

    The density is the model's own, not an estimate: narrow arms and gaps are seen as they are. Where the model has
    p(z | y) of labels that it can be without, a line in each class's colour is around 95 % of it. Data whose label is
    not known, -1, are grey.

    Args:
        model, guide: the programs; of the model the first latent site is shown.
        split: the data, of which ``max_points`` at even distances are drawn, coloured by an integer label ``y``.
        max_points: at most so many.
        seed: of the draws.

    Returns:
        the figure.

    Raises:
        NotApplicable: if there are too few data, the model's first latent site has not two real numbers a datum, or the
            model needs context.

    Source: Makhzani et al. 2015, arXiv:1511.05644, figure 4.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.ClassPriorVAE((1, 8, 8), pyro_vae.priors.PinwheelPrior(3), hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 1, 8, 8) > 0.5, "y": torch.arange(20) % 4 - 1})
        >>> len(pyro_vae.plots.draws_over_prior(model, guide, split).axes)
        1
    """
    batch = pick(split, max_points, seed)
    if len(batch[X]) < 3:
        raise NotApplicable(f"{len(batch[X])} data are too few")
    program = as_program(model)
    if needed := needed_to_generate(program, batch):
        raise NotApplicable(f"the model needs {', '.join(needed)}: it has no p(z) without")
    name = _first_plane(program, batch)
    if name not in free_sites(model, guide, split):
        raise NotApplicable(f"latent site '{name}' has no density of its own in the guide")
    q = posterior_samples(model, guide, batch, seed=seed, sites=[name])[name].double().cpu()
    of_model = sample(model, max_points, seed=seed, batch={X: batch[X]})[name].double().cpu()
    low, high = _range(q, of_model)
    half, middle = 0.5 * (high - low).max(), 0.5 * (low + high)
    x, y = (torch.linspace(m - half, m + half, 2 * POINTS, dtype=torch.float64) for m in middle)
    labels = class_labels(batch)
    context = declared_context(program).get("y")
    known = num_classes(context) if context is not None and context.averaged else None
    count = max(known or 0, 0 if labels is None else int(labels.max()) + 1)
    colours = class_colours(torch.arange(count)) if 0 < count <= MAX_CLASSES else {}
    figure, (axes,) = panels(1, 5.0, 4.7)
    extent = (x[0].item(), x[-1].item(), y[0].item(), y[-1].item())
    height = _height(program, batch, name, x, y)
    axes.imshow(height.sqrt().T.numpy(), origin="lower", extent=extent, cmap="Greys", vmax=2 * height.max().sqrt())
    for k in range(known or 0) if colours else ():
        part = _height(program, batch, name, x, y, k)
        axes.contour(
            x.numpy(), y.numpy(), part.T.numpy(), levels=[_levels(part)[-1]], colors=[colours[k]], linewidths=1
        )
    of = ["C0"] * len(q) if labels is None else [colours.get(k, "0.4") for k in labels.tolist()]
    axes.scatter(*q.T.tolist(), c=of, s=9, alpha=0.7, linewidths=0)
    lines = f"; lines around {100 * MASS[-1]:.0f} % of p({name} | y)" if known and colours else ""
    axes.set(xlabel=f"{name}[0]", ylabel=f"{name}[1]", xlim=extent[:2], ylim=extent[2:])
    axes.set_title(f"grey: p({name}), square root{lines}", fontsize="medium")
    if labels is not None and colours:
        class_legend(figure, torch.arange(count))
    figure.suptitle(f"{split.name}: {len(q)} posterior samples")
    return figure


def _first_plane(program: Program, batch: dict[str, Tensor]) -> str:
    """The model's first latent site, if it is of two real numbers a datum."""
    with in_evaluation([program], given := {X: batch[X]}, seed=0) as moved:
        trace, site = generated(program, len(given[X]), moved)
    first = next((node for node in trace.nodes.values() if is_latent(node) and node["name"] != site), None)
    if first is None:
        raise NotApplicable("the model has no latent site")
    if not in_data_plate(first) or tuple(first["fn"].event_shape) != (2,) or first["fn"].support.is_discrete:
        shape = tuple(first["fn"].event_shape)
        raise NotApplicable(f"it needs a first latent of 2 real numbers per datum, '{first['name']}' has shape {shape}")
    return first["name"]


def _height(
    program: Program, batch: dict[str, Tensor], name: str, x: Tensor, y: Tensor, label: int | None = None
) -> Tensor:
    """p(z), or p(z | y), on a grid of the plane: ``(columns, rows)``."""
    given = {X: batch[X][:1]} | ({} if label is None else {"y": batch[X].new_tensor([label], dtype=torch.int64)})
    with torch.no_grad(), in_evaluation([program], given, seed=0) as moved:
        fn = generated(program, 1, moved).trace.nodes[name]["fn"]
        value = torch.cartesian_prod(x, y).unsqueeze(1).to(moved[X].device, moved[X].dtype)  # (points, 1, 2)
        return fn.log_prob(value).double().exp().cpu().view(len(x), len(y))


def _draw(axes: Axes, name: str, q: Tensor, p: Tensor, classes: Tensor | None) -> None:
    """Draw one site's draws of the posterior and of the prior, ``(n, dim)`` each; the first ones have classes."""
    dim = q.shape[1]
    if dim == 1:
        _curves(axes, name, q, p)
        return
    labels = [f"{name}[0]", f"{name}[1]"]
    if dim > 2:
        both, _, explained = principal_components(torch.cat([q, p]))
        q, p = both[: len(q)], both[len(q) :]
        labels = [
            f"component {i + 1} ({100 * part:.1f} % of the variance)" for i, part in enumerate(explained.tolist())
        ]
    low, high = _range(q, p)
    half = 0.5 * (high - low).max()
    middle = 0.5 * (low + high)
    x, y = (torch.linspace(m - half, m + half, POINTS, dtype=torch.float64) for m in middle)
    extent = (x[0].item(), x[-1].item(), y[0].item(), y[-1].item())
    if classes is None:
        axes.imshow(density(q, x, y).T.numpy(), origin="lower", extent=extent, cmap="Blues")
    else:
        palette = class_colours(classes)
        points, colours = q[: len(classes)], [palette[k] for k in classes.tolist()]
        axes.scatter(*points.T.tolist(), c=colours, s=9, alpha=0.7, linewidths=0)
        axes.set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
    height = density(p, x, y)
    axes.contour(x.numpy(), y.numpy(), height.T.numpy(), levels=sorted(_levels(height)), colors="C1", linewidths=1.2)
    axes.set(title=f"{name} ({dim} dimensions)", xlabel=labels[0], ylabel=labels[1])


def density(points: Tensor, x: Tensor, y: Tensor) -> Tensor:
    r"""A density in the plane, from draws: a Gaussian kernel of 0.7 times the width of Scott's rule along each axis.

    Args:
        points: ``(n, 2)``.
        x, y: the grid's coordinates, ``(columns,)`` and ``(rows,)``.

    Returns:
        ``(columns, rows)``, integrating to 1 over the plane.
    """
    kernels = []
    for i, axis in enumerate((x, y)):
        step = (axis[1] - axis[0]).item()
        width = max(0.7 * points[:, i].std().item() * len(points) ** (-1 / 6), step)  # not below the grid's
        distance = (axis[:, None] - points[:, i]) / width  # (grid, n)
        kernels.append((-0.5 * distance.square()).exp() / (width * math.sqrt(2 * math.pi)))
    return kernels[0] @ kernels[1].T / len(points)


def _levels(height: Tensor) -> list[float]:
    """The heights whose contours enclose the given shares of the mass."""
    falling = height.flatten().sort(descending=True).values
    mass = falling.cumsum(0) / falling.sum()
    return [falling[int((mass < share).sum())].item() for share in MASS]


def _range(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Where nearly all points are, with some room."""
    cut = torch.tensor([0.005, 0.995], dtype=torch.float64)
    ends = torch.stack([points.quantile(cut, 0) for points in (q, p)])  # (2 sets, 2 ends, dim)
    low, high = ends[:, 0].amin(0), ends[:, 1].amax(0)
    room = 0.15 * (high - low).clamp(min=1e-6)
    return low - room, high + room


def _curves(axes: Axes, name: str, q: Tensor, p: Tensor) -> None:
    low, high = (end.item() for end in _range(q, p))
    for points, style in ((q, {"histtype": "stepfilled", "color": "C0", "alpha": 0.6}), (p, {"color": "C1"})):
        options = {"histtype": "step", "linewidth": 1.2, **style}
        axes.hist(points[:, 0].tolist(), bins=50, range=(low, high), density=True, **options)
    axes.set(title=f"{name} (1 dimension)", xlabel=name, ylabel="density")
