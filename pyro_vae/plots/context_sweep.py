"""Figure: what one latent is decoded to while the context y changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.evaluation.generate import draw
from pyro_vae.plots.images import is_image, labelled_columns
from pyro_vae.plots.registry import NotApplicable, figure
from pyro_vae.programs.context import declared_context, num_attributes, num_classes
from pyro_vae.programs.program import as_program

MAX_CLASSES, MAX_ATTRIBUTES = 20, 12


@figure(section="Samples", caption="One latent under changing context.", order=2, pictures=True)
def progression(model: Callable[..., Any], split: Split, rows: int = 8, steps: int = 9, seed: int = 0) -> Figure:
    """Rows of means of p(x | z, y) with z held and y swept: over the classes, or over an attribute's range in the data.

    An attribute goes from its least to its greatest value, y = (1 - a) y_min + a y_max, the others staying at their
    mean; there is a row for each. z is held by the same random numbers along a row: where p(z | y) = N(mu(y),
    sigma(y)^2), what is the same is (z - mu(y)) / sigma(y).

    Args:
        model: a generative program whose declared context is a class label or a vector of attributes ``y``.
        split: the data, for the range of attributes.
        rows: draws of z (classes).
        steps: values of a (attributes).
        seed: of the draws.

    Returns:
        the figure.

    Raises:
        NotApplicable: if the model has no such context or the data are no images.

    Source: Yan et al. 2016, "Attribute2Image", arXiv:1512.00570, section 5 (progression).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.ConditionalVAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 1, 8, 8) > 0.5, "y": torch.arange(20) % 10})
        >>> len(pyro_vae.plots.progression(model, split, rows=2).axes)
        1
    """
    program = as_program(model)
    declared = declared_context(program)
    if set(declared) != {"y"} or not is_image(split.shape):
        raise NotApplicable("the model takes no label or attributes y, or the data are no images")
    classes, attributes = num_classes(declared["y"]), num_attributes(declared["y"])
    if classes is not None:
        names = {f"y = {k}": torch.full((rows,), k) for k in range(min(classes, MAX_CLASSES))}
        row_names, what = None, "a row: one draw of z for every class y"
    elif attributes is not None and "y" in split.columns:
        values = split.column("y").float().cpu()
        names = _sweeps(values[:, :MAX_ATTRIBUTES], values.mean(0), steps)
        row_names = [f"y[{i}]" for i in range(min(attributes, MAX_ATTRIBUTES))]
        what = "one attribute y from its least to its greatest value, one draw of z"
    else:
        raise NotApplicable("y is no class label or vector of attributes")
    columns = {}
    for name, y in names.items():
        mean = draw(program, len(y), seed=seed, batch={"y": y}).mean  # (rows, *shape)
        columns[name] = mean.reshape(len(y), -1, *split.shape[-2:])
    figure = labelled_columns(columns, row_names)
    figure.suptitle(f"Mean of p(x | z, y); {what}")
    return figure


def _sweeps(values: Tensor, mean: Tensor, steps: int) -> dict[str, Tensor]:
    """For each step ``(A', A)``: row i has attribute i on its way, the others at their mean."""
    low, high = values.amin(0), values.amax(0)  # (A',)
    index = torch.arange(len(low))
    sweeps = {}
    for a in torch.linspace(0, 1, steps).tolist():
        y = mean.repeat(len(low), 1)
        y[index, index] = (1 - a) * low + a * high
        sweeps[f"{a:.3g}"] = y
    return sweeps
