"""What a learned prior over codes is worth to the eye."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from pyro_vae.arguments import needed_to_generate
from pyro_vae.evaluation.figures.grid import grid, is_drawable
from pyro_vae.evaluation.figures.images import is_image, mosaic
from pyro_vae.evaluation.generate import draw
from pyro_vae.priors import Prior, UniformPrior
from pyro_vae.program import Batch, Program

logger = logging.getLogger(__name__)
SIDE = 6  # samples on a side
MAX_CLASSES, PER_CLASS = 20, 6


def uniform_and_learned(model: Callable[..., Any], seed: int = 0, batch: Batch | None = None) -> Figure | None:
    """Two panels of means of p(x | z): codes from the uniform prior, and from the model's present, learned one.

    If a learned prior is conditional on the class label ``y``, every class that it has seen has a column.

    Args:
        model: a module with ``priors``, an ``nn.ModuleDict`` of :class:`~pyro_vae.priors.Prior` by site name. Uniform
            ones take the learned ones' places for a moment; all is put back, whatever happens.
        seed: of the draws.
        batch: context that the model needs beside y, ``(n, ...)`` each, for n samples or in turn; without, there are 36
            samples, or 6 of every class.

    Returns:
        the figure, or None (and a line in the log) if the model has no learned prior, or the data are neither images
        nor vectors.

    Raises:
        InputError: for a model that cannot be run without data.
    """
    program = model if isinstance(model, Program) else Program(model)
    priors = learned_priors(program)
    if not priors:
        logger.info("no figure of uniform and learned priors: the model has no learned prior over codes")
        return None
    classes = _classes(priors) if "y" in needed_to_generate(program) else []
    given = len(next(iter(batch.values()))) if batch else SIDE * SIDE
    count = PER_CLASS * len(classes) or given
    context = {name: value[torch.arange(count) % given] for name, value in (batch or {}).items()}
    if classes:
        context["y"] = torch.tensor(classes).repeat(PER_CLASS)  # a class to a column
    columns = len(classes) or math.ceil(math.sqrt(count))
    learned = draw(program, count, seed=seed, batch=context).mean
    with uniform_in_place(program):
        uniform = draw(program, count, seed=seed, batch=context).mean
    shape = tuple(learned.shape[1:])
    if not is_drawable(shape):
        logger.info("no figure of uniform and learned priors: data of shape %s are neither images nor vectors", shape)
        return None
    title = f"Samples under the uniform and the learned prior of {', '.join(priors)}: mean of p(x | z)"
    sides = {"uniform": uniform, "learned": learned}
    if is_image(shape):
        return _images(sides, columns, classes, title)
    rows = [f"y = {k}" for k in classes] or [""] * SIDE
    values = torch.stack([side[: len(rows)] for side in sides.values()], 1)  # (rows, 2, *shape)
    return grid(values, title, rows=rows, columns=list(sides))


def learned_priors(program: Program) -> dict[str, Prior]:
    """The priors that a model holds and that are not uniform, by site name."""
    held = getattr(program.program, "priors", None)
    if not isinstance(held, nn.ModuleDict):
        return {}
    return {n: p for n, p in held.items() if isinstance(p, Prior) and not isinstance(p, UniformPrior)}


@contextmanager
def uniform_in_place(program: Program) -> Iterator[None]:
    """The model with uniform priors for the length of a block."""
    held, learned = program.program.priors, learned_priors(program)
    try:
        for name, prior in learned.items():
            tensor = next(iter([*prior.parameters(), *prior.buffers()]))
            held[name] = UniformPrior(prior.num_codes, prior.shape).to(tensor.device)
        yield
    finally:
        for name, prior in learned.items():
            held[name] = prior


def _classes(priors: dict[str, Prior]) -> list[int]:
    """The labels that every conditional prior has seen."""
    seen = [prior.seen for prior in priors.values() if prior.num_classes is not None]
    return torch.stack(seen).all(0).nonzero().flatten().tolist()[:MAX_CLASSES] if seen else []


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
