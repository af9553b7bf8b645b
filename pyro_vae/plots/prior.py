"""Figures: samples of a model under its priors, scaled priors, and its first against learned priors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.data import Pictures
from pyro_vae.distributions import UniformCodes
from pyro_vae.evaluation.codes import number_of_codes
from pyro_vae.evaluation.generate import draw
from pyro_vae.plots.drawing import Figure
from pyro_vae.plots.images import (
    curve_panels,
    draw_curve,
    grid,
    is_curve,
    is_image,
    kind,
    mosaic,
    range_in_words,
    shaped_like_x,
)
from pyro_vae.plots.registry import NotApplicable, figure
from pyro_vae.plots.view import View
from pyro_vae.programs.context import X, declared_context, needed_to_generate, takes, unwrapped
from pyro_vae.programs.handlers import scaled, tempered
from pyro_vae.programs.program import Batch, Program, as_program
from pyro_vae.programs.session import generated, in_evaluation
from pyro_vae.programs.site_priors import WithPriors
from pyro_vae.programs.sites import in_data_plate
from pyro_vae.programs.traces import is_latent

MAX_CURVES = 64
NUM_PRIOR_SAMPLES, NUM_SCALED_SAMPLES = 64, 10


@figure(
    section="Samples",
    caption="Means of p(x | z), z drawn from the prior.",
    given=lambda run: dict(zip(("n", "batch"), run.context(NUM_PRIOR_SAMPLES), strict=True)),
    pictures=True,
)
def prior_samples(
    model: Callable[..., Any],
    n: int = 64,
    seed: int = 0,
    batch: Batch | None = None,
    columns: int | None = None,
    scales: Mapping[str, float] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float = 0.0,
    pictures: Pictures | None = None,
) -> Figure:
    """A grid of means of p(x | z), for z drawn from the prior.

    Args:
        model: the generative program.
        n: how many; of vectors, at most 64.
        seed: of the draws.
        batch: context that the model needs, ``(n, ...)`` each; and ``x``, rows of data, in whose shape the means are
            shown, and which stand in for the data of a model that cannot be run without.
        columns: of the grid; as many as rows if not given.
        scales: factors for the standard deviations of latent sites' priors, by name.
        temperature, top_k, top_p, guidance: as for :func:`~pyro_vae.evaluation.generate.sample`.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: if the data are neither images nor vectors.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> len(pyro_vae.plots.prior_samples(model, n=9).axes)
        1
    """
    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    mean = draw(model, n, seed=seed, batch=batch, scales=scales, **how).mean  # (n, *event)
    what, view = kind(mean), _view(mean, batch, pictures)
    mean = view(mean)  # (n, *shape)
    shape = tuple(mean.shape[1:])
    if is_curve(shape):
        mean = mean[:MAX_CURVES]  # a panel each: more would take minutes
    n, limits = len(mean), view.limits
    columns = math.ceil(math.sqrt(n)) if columns is None else min(columns, n)
    if is_image(shape):
        figure = Figure(figsize=(7, 7 * shape[-2] / shape[-1] * math.ceil(n / columns) / columns + 0.4))
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        axes.imshow(mosaic(mean, columns, limits=limits))
        axes.set_axis_off()
    else:
        figure = Figure(figsize=(7, 7), layout="constrained")
        rows = math.ceil(n / columns)
        panels = list(curve_panels(figure, rows, columns).flat)
        for axes, values in zip(panels, mean, strict=False):
            draw_curve(axes, values, 3, linewidth=1)
        for axes in panels[n:]:
            axes.set_axis_off()
    given = ", ".join(name for name in batch or {} if name != X and takes(model, name))
    inner = f"{what} of p(x | z"
    inner += f", {given}), z ~ p(z | {given})" if given else "), z ~ p(z)"
    scaled = "".join(f", scale of {site} x {factor:g}" for site, factor in (scales or {}).items())
    tempered = f", temperature {temperature:g}" * (temperature != 1) + f", top {top_k} codes" * (top_k is not None)
    tempered += f", top_p {top_p}" * (top_p is not None) + f", guidance {guidance:g}" * (guidance > 0)
    text = range_in_words(limits) if is_image(shape) else ""
    figure.suptitle(f"Samples from the prior: {inner}{scaled}{tempered}{text and f'; {text}'}")
    return figure


SCALES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


@figure(given=lambda run: dict(zip(("n", "batch"), run.context(NUM_SCALED_SAMPLES), strict=True)), pictures=True)
def scaled_samples(
    model: Callable[..., Any],
    scales: Sequence[float] = SCALES,
    sites: Sequence[str] | None = None,
    n: int = 10,
    seed: int = 0,
    batch: Batch | None = None,
    pictures: Pictures | None = None,
) -> Figure:
    """Means of p(x | z) for z drawn from the prior with its standard deviations multiplied by each factor.

    Every row has the same noise, so that a column shows one sample become bolder.

    Args:
        model: the generative program.
        scales: the factors, a row each.
        sites: latent sites to scale; all that have a scale, if None.
        n: columns.
        seed: of the noise.
        batch: context that the model needs, ``(n, ...)`` each; and ``x``, as for
            :func:`~pyro_vae.plots.prior_samples`.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: if no site has a scale, or the data are neither images nor vectors.
        InputError: for an unknown site, one without a scale, and factors that are not positive.

    Source: Maaløe et al. 2019, arXiv:1902.02102.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> len(pyro_vae.plots.scaled_samples(model, scales=(0.5, 1.0), n=4).axes)
        1
    """
    program = as_program(model)
    if sites is None:
        sites = _sites_with_scale(program, batch or {})
    if not sites or not scales:
        raise NotApplicable("no latent site has a prior with a scale")
    factors = [dict.fromkeys(sites, scale) for scale in scales]
    means = [draw(program, n, seed=seed, batch=batch, scales=each).mean for each in factors]
    view = _view(means[0], batch, pictures)
    means = [view(mean) for mean in means]
    which = "all latent sites" if len(sites) > 4 else ", ".join(sites)
    title = f"Samples from the prior, its deviations scaled: {which}"
    return grid(torch.stack(means), title, rows=[f"{scale:g}" for scale in scales], axis="factor", limits=view.limits)


def _view(means: Tensor, batch: Batch | None, pictures: Pictures | None) -> View:
    """How means ``(n, *event)`` are drawn: in the shape of the batch's x, where there is one with as many elements."""
    return View(tuple(shaped_like_x(means, batch).shape[1:]), batch or {}, pictures)


def _sites_with_scale(program: Program, batch: Batch) -> list[str]:
    one = {name: value if name == X else value[:1] for name, value in batch.items()}
    with in_evaluation([program], one, seed=0) as one:
        trace, site = generated(program, 1, one)
    latents = {name: n for name, n in trace.nodes.items() if is_latent(n) and in_data_plate(n) and name != site}
    return [name for name, node in latents.items() if scaled(node["fn"], 1.0) is not None]


SIDE = 6  # samples on a side
MAX_CLASSES, PER_CLASS = 20, 6
LARGEST_LABEL = 10_000


@figure(
    section="Samples",
    caption="Samples under a uniform and under the learned prior over codes.",
    order=1,
    given=lambda run: {"batch": run.context(NUM_PRIOR_SAMPLES, without=("y",))[1]},
    pictures=True,
)
def uniform_and_learned(
    model: Callable[..., Any], seed: int = 0, batch: Batch | None = None, pictures: Pictures | None = None
) -> Figure:
    """Two panels of means of p(x | z): codes that are all equally probable, and codes from the model's learned prior.

    If the model needs a class label ``y``, every class that it takes has a column.

    Args:
        model: a generative program.
        seed: of the draws.
        batch: context that the model needs beside y, ``(n, ...)`` each, for n samples or in turn; without, there are 36
            samples, or 6 of every class. And ``x``, rows of data that stand in for those of a model that cannot be run
            without.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: if the model has no learned prior, or the data are neither images nor vectors.
        InputError: for a model that cannot be run without data.

    Example:
        >>> import pyro_vae
        >>> model = pyro_vae.models.VQVAE((3, 16, 16), num_codes=32, code_dim=4, channels=8)
        >>> model.priors["codes"] = pyro_vae.priors.GatedPixelCNN(32, model.grid, channels=8, num_layers=2)
        >>> [axes.get_title() for axes in pyro_vae.plots.uniform_and_learned(model).axes]
        ['uniform prior', 'learned prior']
    """
    program = as_program(model)
    classes = _classes(program) if "y" in needed_to_generate(program) else []
    given = next((len(value) for name, value in (batch or {}).items() if name != X), SIDE * SIDE)
    count = PER_CLASS * len(classes) or given
    context = {name: value[torch.arange(count) % len(value)] for name, value in (batch or {}).items()}
    if classes:
        context["y"] = torch.tensor(classes).repeat(PER_CLASS)  # a class to a column
    flat = _UniformInPlace()
    with in_evaluation([program], {name: value[:1] for name, value in context.items()}, seed) as one, flat:
        generated(program, 1, one)
    if not flat.sites:
        raise NotApplicable("the model has no learned prior over codes")
    columns = len(classes) or math.ceil(math.sqrt(count))
    learned = draw(program, count, seed=seed, batch=context).mean
    with flat:
        uniform = draw(program, count, seed=seed, batch=context).mean
    title = f"Samples under the uniform and the learned prior of {', '.join(flat.sites)}: mean of p(x | z)"
    view = View(tuple(learned.shape[1:]), context, pictures)
    sides = {"uniform": view(uniform), "learned": view(learned)}
    if is_image(tuple(sides["learned"].shape[1:])):
        return _images(sides, columns, classes, title)
    rows = [f"y = {k}" for k in classes] or [""] * SIDE
    values = torch.stack([side[: len(rows)] for side in sides.values()], 1)  # (rows, 2, *shape)
    return grid(values, title, rows=rows, columns=list(sides))


class _UniformInPlace(Messenger):
    """A handler that notes which codes have a learned prior, and under which those are all equally probable after it.

    Attributes:
        sites: their names, and where their values are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, torch.device] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.sites and not msg["is_observed"]:
            fn, codes = msg["fn"], number_of_codes(msg["fn"])
            assert codes is not None
            msg["fn"] = UniformCodes(codes, fn.event_shape, fn.batch_shape, device=self.sites[msg["name"]])

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and tempered(msg["fn"], 2.0) is not None and number_of_codes(msg["fn"]) is not None:
            self.sites[msg["name"]] = msg["value"].device  # only what is learned has a temperature


@figure(
    section="Samples",
    caption="Samples under the model's own prior and under the one that was learned afterwards.",
    order=2,
    given=lambda run: dict(zip(("n", "batch"), run.context(SIDE * SIDE), strict=True)),
    pictures=True,
)
def own_and_learned(
    model: Callable[..., Any],
    n: int = SIDE * SIDE,
    seed: int = 0,
    batch: Batch | None = None,
    pictures: Pictures | None = None,
) -> Figure:
    """Two panels of means of p(x | z), z from the prior that the model was trained with and from the one fitted later.

    Args:
        model: a generative program with priors that were fitted afterwards
            (:class:`~pyro_vae.programs.site_priors.WithPriors`).
        n: samples in each panel.
        seed: of the draws.
        batch: context that the model needs, ``(n, ...)`` each; and ``x``, as for :func:`prior_samples`.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: if the model has no such prior, or the data are neither images nor vectors.

    Example:
        >>> import pyro_vae
        >>> from pyro_vae.programs.site_priors import WithPriors
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> model = WithPriors(model, {"z": pyro_vae.priors.MixturePrior((2,), num_components=3)})
        >>> [axes.get_title() for axes in pyro_vae.plots.own_and_learned(model).axes]
        ['own prior', 'learned prior']
    """
    both = unwrapped(model)
    if not isinstance(both, WithPriors):
        raise NotApplicable("no prior over a real latent was fitted to the model afterwards")
    own, learned = (draw(program, n, seed=seed, batch=batch).mean for program in (both.inner_program, model))
    view = _view(own, batch, pictures)
    sides = {"own": view(own), "learned": view(learned)}
    title = f"Samples under the model's own and the learned prior of {', '.join(both.names)}: mean of p(x | z)"
    if is_image(tuple(sides["own"].shape[1:])):
        return _images(sides, math.ceil(math.sqrt(n)), [], title)
    values = torch.stack([side[:SIDE] for side in sides.values()], 1)  # (rows, 2, *shape)
    return grid(values, title, rows=[""] * len(values), columns=list(sides))


@figure(section="Samples", caption="Pseudo-inputs, of whose posteriors the prior is made.", order=3, pictures=True)
def pseudo_inputs(model: Callable[..., Any], n: int = NUM_PRIOR_SAMPLES, pictures: Pictures | None = None) -> Figure:
    """The first pseudo-inputs of a prior that is made of the guide's posteriors at them.

    Args:
        model: a generative program with such a prior, a module that has ``pseudo_inputs`` ``(K, *data_shape)``.
        n: how many.
        pictures: how data become pictures, if they are none by themselves.

    Returns:
        the figure.

    Raises:
        NotApplicable: if the model has no such prior, or the data are neither images nor vectors.

    Example:
        >>> import pyro_vae
        >>> prior = pyro_vae.priors.VampPrior((2,), data_shape=(1, 8, 8), num_components=10)
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,), prior=prior)
        >>> pyro_vae.plots.pseudo_inputs(model).get_suptitle()
        '10 of 10 pseudo-inputs'
    """
    program = as_program(model)
    found = next((module for module in program.modules() if hasattr(type(module), "pseudo_inputs")), None)
    if found is None:
        raise NotApplicable("no prior of the model is made of posteriors at pseudo-inputs")
    inputs: Tensor = found.pseudo_inputs.detach().cpu()
    title = f"{min(n, len(inputs))} of {len(inputs)} pseudo-inputs"
    shown = View(tuple(inputs.shape[1:]), {}, pictures)(inputs[:n])
    if not is_image(tuple(shown.shape[1:])):
        return grid(shown[:SIDE, None], title)
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mosaic(shown, math.ceil(math.sqrt(len(shown)))))
    axes.set_axis_off()
    figure.suptitle(title)
    return figure


def _classes(program: Program) -> list[int]:
    """The labels that a program takes, at most ``MAX_CLASSES`` of them."""
    y = declared_context(program).get("y")
    if y is None or y.shape or y.dtype != torch.int64:
        return []
    return y.support.check(torch.arange(LARGEST_LABEL)).nonzero().flatten().tolist()[:MAX_CLASSES]


def _images(sides: dict[str, Tensor], columns: int, classes: list[int], title: str) -> Figure:
    count, height, width = len(sides["learned"]), *sides["learned"].shape[-2:]
    rows = -(-count // columns)
    panel = max(3.5, min(6.0, 0.6 * columns))
    figure = Figure(figsize=(2 * panel + 0.3, panel * rows * height / (columns * width) + 0.9), layout="constrained")
    for axes, (name, images) in zip(figure.subplots(1, 2), sides.items(), strict=True):
        axes.imshow(mosaic(images, columns))
        axes.set_title(f"{name} prior", fontsize="medium")
        _label_columns(axes, classes, width)
    figure.suptitle(title)
    return figure


def _label_columns(axes: Axes, classes: list[int], width: int) -> None:
    axes.set_yticks([])
    axes.set_xticks([(i + 0.5) * (width + 1) - 1 for i in range(len(classes))], [str(k) for k in classes])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if classes:
        axes.set_xlabel("y")
