"""Figure: several completions of data of which a part is observed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.evaluation.generate import draw
from pyro_vae.plots.images import is_image, labelled_columns, pick
from pyro_vae.plots.registry import NotApplicable, figure
from pyro_vae.programs.context import X, declared_context
from pyro_vae.programs.program import as_program
from pyro_vae.programs.session import generated, in_evaluation
from pyro_vae.programs.sites import Site, data_first
from pyro_vae.programs.traces import is_latent

MISSING = (0.62, 0.74, 0.88)  # the colour of what is not observed


@figure(
    section="Reconstructions",
    caption="The observed part of data, and what the model makes of the rest.",
    order=2,
    pictures=True,
)
def completions(model: Callable[..., Any], split: Split, rows: int = 10, draws: int = 6, seed: int = 0) -> Figure:
    """Rows: observed part, deterministic sites of the data's shape (a prediction), several completions, truth.

    A completion is the mean of p(x | z, y) for one z ~ p(z | y), with the observed part in its place.

    Args:
        model: a generative program that takes an observed part ``y`` and a ``mask`` of the data's shape (by its
            declared context).
        split: the data, of which ``rows`` at even distances are shown.
        rows: how many.
        draws: completions of each (one for a model without latents).
        seed: of the draws.

    Returns:
        the figure.

    Raises:
        NotApplicable: if the model completes nothing or the data are no images.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.CompletionVAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> x, mask = torch.ones(5, 1, 8, 8), torch.arange(8).expand(5, 1, 8, 8) < 4
        >>> split = pyro_vae.data.Split({"x": x, "y": x, "mask": mask})
        >>> len(pyro_vae.plots.completions(model, split, rows=2, draws=3).axes)
        1
    """
    program = as_program(model)
    declared = declared_context(program)
    if not all(name in declared and declared[name].shape == split.shape for name in ("y", "mask")):
        raise NotApplicable("the model takes no observed part y with a mask")
    if not is_image(split.shape):
        raise NotApplicable(f"data of shape {split.shape} are no images")
    batch = pick(split, rows, seed)
    context = {name: value for name, value in batch.items() if name in declared}
    count = len(batch[X])
    with in_evaluation([program], context, seed) as moved:
        trace, site = generated(program, count, moved)
    nodes = trace.nodes
    latent = any(is_latent(node) and name != site for name, node in nodes.items())
    columns = {"observed": _with_colour(context["y"].cpu(), context["mask"].cpu())}
    columns |= {name: data_first(node["value"], node).cpu() for name, node in nodes.items() if _like_data(node, split)}
    for i in range(draws if latent else 1):
        name = f"completion {i + 1}" if latent else "prediction"
        columns[name] = draw(program, count, seed=seed + i, batch=context).mean
    columns["truth"] = batch[X].cpu()
    figure = labelled_columns({name: value.reshape(count, -1, *split.shape[-2:]) for name, value in columns.items()})
    what = ": mean of p(x | z, y), z ~ p(z | y)" if latent else ": mean of p(x | y)"
    figure.suptitle(f"{split.name}: completions of an observed part y{what}")
    return figure


def _like_data(node: Site, split: Split) -> bool:
    """Whether a site is a function of others (``pyro.deterministic``) of the data's shape, as a prediction is."""
    return bool(node.get("infer", {}).get("_deterministic")) and tuple(node["fn"].event_shape) == split.shape


def _with_colour(y: Tensor, mask: Tensor) -> Tensor:
    """The observed part, with a colour where elements are missing; ``(n, 3, H, W)``."""
    y, mask = (v.reshape(len(v), -1, *v.shape[-2:]).expand(-1, 3, -1, -1) for v in (y, mask))
    return torch.where(mask, y, torch.tensor(MISSING).view(3, 1, 1))
