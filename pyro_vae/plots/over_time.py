"""Figure: sequences over time, with what the model makes of them, and sequences of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.errors import NotApplicable
from pyro_vae.evaluation.generate import draw, reconstruct
from pyro_vae.plots.drawing import Figure
from pyro_vae.plots.images import pick, shaped_like_x
from pyro_vae.plots.registry import figure
from pyro_vae.programs.context import X, needed_to_generate, takes

MOST = 6  # numbers of a step that are drawn
LENGTHS = "lengths"  # a batch's entry that says how many steps count


@figure(
    section="Reconstructions",
    caption="Sequences (dots), the mean of p(x | z), z from the guide (lines); below, sequences that the model draws.",
    order=1,
    pictures=True,
)
def sequences(model: Callable[..., Any], guide: Callable[..., Any], split: Split, n: int = 4, seed: int = 0) -> Figure:
    """Two rows of panels over time: data with their reconstructions, up to their lengths, and draws of the model.

    Args:
        model, guide: the programs.
        split: the data, (steps, dim) or (steps,) each, with ``lengths``; n at even distances are drawn.
        n: columns.
        seed: of all draws.

    Returns:
        the figure.

    Raises:
        NotApplicable: if the data are no sequences with lengths beside that the model is given.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.DeepMarkovModel((6, 3), latent_dim=2, hidden_dims=(8,), transition_dim=8)
        >>> guide = pyro_vae.guides.DeepMarkovGuide(model, hidden_dim=8)
        >>> split = pyro_vae.data.Split({"x": torch.randn(9, 6, 3), "lengths": torch.arange(9) % 6 + 1})
        >>> len(pyro_vae.plots.sequences(model, guide, split).axes)
        8
    """
    if LENGTHS not in split.columns or len(split.shape) not in (1, 2):
        raise NotApplicable("the data are no sequences (steps, dim) with lengths beside")
    if not takes(model, LENGTHS):
        raise NotApplicable("the model takes no lengths, and draws sequences of lengths of their own")
    batch = pick(split, n, seed)
    n, dim = len(batch[X]), split.shape[1] if len(split.shape) == 2 else 1
    mean = shaped_like_x(reconstruct(model, guide, batch, seed=seed), batch)  # (n, T, dim)
    given = {name: batch[name] for name in (X, LENGTHS, *needed_to_generate(model, batch))}
    drawn = draw(model, n, seed=seed, batch=given)
    own = shaped_like_x(drawn.values[drawn.site], batch)  # (n, T, dim)
    figure = Figure(figsize=(max(6.0, 2.4 * n), 4.6), layout="constrained")
    panels = figure.subplots(2, n, sharex=True, sharey=True, squeeze=False)
    for i, length in enumerate(batch[LENGTHS].tolist()):
        for d in range(min(MOST, dim)):
            panels[0, i].plot(_steps(batch[X], i, length, d), ".", color=f"C{d}", markersize=4)
            panels[0, i].plot(_steps(mean, i, length, d), color=f"C{d}", linewidth=1)
            panels[1, i].plot(_steps(own, i, length, d), color=f"C{d}", linewidth=1)
        panels[1, i].set_xlabel("step")
    panels[0, 0].set_ylabel("data, and mean of p(x | z)")
    panels[1, 0].set_ylabel("draws of the model")
    left_out = f", the first {MOST} numbers of {dim}" if dim > MOST else ""
    figure.suptitle(f"{split.name}: sequences up to their lengths{left_out}")
    return figure


def _steps(x: Tensor, i: int, length: int, d: int) -> list[float]:
    return x[i, :length].reshape(length, -1)[:, d].tolist()
