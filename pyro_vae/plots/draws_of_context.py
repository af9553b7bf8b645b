"""Figure: several draws of each of some images that a model is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from pyro_vae.data import Pictures, Split
from pyro_vae.evaluation.best_draws import draws_given
from pyro_vae.plots.drawing import Figure
from pyro_vae.plots.images import is_image, kind, labelled_columns, pick
from pyro_vae.plots.registry import NotApplicable, figure
from pyro_vae.plots.view import View
from pyro_vae.programs.context import X, declared_context, needed_to_generate
from pyro_vae.programs.program import Batch, as_program


@figure(
    section="Samples",
    caption="What the model is given, the truth, the mean of its draws, and several of them.",
    order=1,
    pictures=True,
)
def context_draws(
    model: Callable[..., Any],
    split: Split,
    rows: int = 8,
    draws: int = 8,
    seed: int = 0,
    pictures: Pictures | None = None,
    regressor: Callable[..., Any] | None = None,
) -> Figure:
    """Rows: the images given, the truth, the mean of all draws (or what a regressor answers), and several draws.

    A draw is the mean of p(x | z, image) for one z ~ p(z | image).

    Args:
        model: a generative program that is given images, by its declared context.
        split: the data, of which ``rows`` at even distances are shown.
        rows: how many.
        draws: of each.
        seed: of the draws.
        pictures: how data become pictures, if they are none by themselves.
        regressor: a model without latents of the same context, which is shown in place of the draws' mean.

    Returns:
        the figure.

    Raises:
        NotApplicable: if the model is given no images, or the data cannot be drawn.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.FieldVAE((1, 8, 8), (1, 8, 8), latent_dim=3, channels=(8, 12), context_dim=10)
        >>> split = pyro_vae.data.Split({"x": torch.rand(5, 1, 8, 8), "image": torch.rand(5, 1, 8, 8)})
        >>> len(pyro_vae.plots.context_draws(model, split, rows=2, draws=3).axes)
        1
    """
    program = as_program(model)
    declared = declared_context(program)
    given = [name for name in needed_to_generate(program, split.keys) if name in split.keys and name in declared]
    images = [name for name in given if is_image(declared[name].shape) and declared[name].dtype.is_floating_point]
    if not images:
        raise NotApplicable("the model is given no images")
    if "mask" in given:
        raise NotApplicable("the model is given a part of the data: see the figure 'completions'")
    batch = pick(split, rows, seed)
    view = View(split.shape, batch, pictures)
    truth = view(batch[X])
    if not is_image(tuple(truth.shape[1:])):
        raise NotApplicable(f"data of shape {split.shape} are no images")
    drawn = draws_given(program, batch, draws, seed=seed)  # (draws, n, *data_shape)
    answer = drawn.mean(0) if regressor is None else draws_given(regressor, batch, 1, seed=seed)[0]
    size = tuple(truth.shape[-2:])
    columns = {name: _resized(batch[name].float().cpu(), size) for name in images} | {"truth": truth}
    columns["mean of draws" if regressor is None else "regressor"] = view(answer)
    columns |= {f"draw {i + 1}": view(each) for i, each in enumerate(drawn)}
    columns = {name: value.reshape(len(value), -1, *size) for name, value in columns.items()}
    result = labelled_columns(columns, limits=view.limits)
    result.suptitle(f"{split.name}: draws given {', '.join(images)}")
    return result


def draws_of_given(
    batch: Batch, drawn: Tensor, draws: int, shape: tuple[int, ...], pictures: Pictures | None = None
) -> Figure:
    """Rows: the images that a model was given, and what was drawn of each.

    Args:
        batch: what it was given, ``(n * draws, ...)`` each, ``draws`` alike ones after one another.
        drawn: what was drawn, ``(n * draws, *event)``.
        draws: of each.
        shape: of one datum.
        pictures: how data become pictures, if they are none by themselves.

    Raises:
        NotApplicable: if what was drawn is no image.
    """
    view = View(shape, batch, pictures)
    seen = view(drawn)
    if not is_image(tuple(seen.shape[1:])):
        raise NotApplicable(f"data of shape {shape} are no images")
    size = tuple(seen.shape[-2:])
    columns = {
        name: _resized(value[::draws].float().cpu(), size)
        for name, value in batch.items()
        if value.is_floating_point() and is_image(tuple(value.shape[1:])) and value.dim() == 4
    }
    seen = seen.reshape(-1, draws, *(seen.shape[1:] if seen.dim() == 4 else (1, *size)))  # (n, draws, C, H, W)
    columns |= {f"draw {i + 1}": each for i, each in enumerate(seen.unbind(1))}
    result = labelled_columns(columns, limits=view.limits)
    result.suptitle(f"Draws given {', '.join(name for name in batch if name != X)}: {kind(drawn)} of p(x | z, …)")
    return result


def _resized(image: Tensor, size: tuple[int, ...]) -> Tensor:
    image = image.reshape(len(image), -1, *image.shape[-2:])
    if image.shape[1] not in (1, 3):
        image = image.mean(1, keepdim=True)
    return image if tuple(image.shape[-2:]) == size else interpolate(image, size=size)
