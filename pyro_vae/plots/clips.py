"""Figures: what a model lets follow given frames under different actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Actions, Clips, Pictures, Split
from pyro_vae.data.actions import ACTIONS
from pyro_vae.errors import NotApplicable
from pyro_vae.evaluation.rollouts import roll_out
from pyro_vae.plots.drawing import Figure
from pyro_vae.plots.images import mosaic, pick, shaped_like_x
from pyro_vae.plots.registry import figure
from pyro_vae.programs.context import X, takes
from pyro_vae.runtime import derived_seed

MOST_BRANCHES = 5  # actions that a figure shows
PIXELS = 110  # an inch


def sheet(pictures: Tensor, rows: Sequence[str], title: str, groups: int = 1) -> Figure:
    """Wide pictures below one another, each with what it is at its left; a gap after every group.

    Args:
        pictures: ``(n, C, H, W)`` in [0, 1], C = 1 or 3.
        rows: n labels.
        title: of the figure.
        groups: how many pictures are a group.

    Returns:
        the figure.
    """
    n, channels, height, width = pictures.shape
    gap = max(2, height // 8)
    spaces = [gap if (i + 1) % groups == 0 and groups > 1 and i + 1 < n else 0 for i in range(n)]
    strips = [
        torch.cat([picture, picture.new_ones(channels, space, width)], 1)
        for picture, space in zip(pictures, spaces, strict=True)
    ]
    whole = torch.cat([torch.cat([strip, strip.new_ones(channels, 1, width)], 1) for strip in strips], 1)
    size = max(6.0, 2 * width / PIXELS + 1.6), 2 * whole.shape[1] / PIXELS + 0.7
    drawn = Figure(figsize=size, layout="constrained")
    axes = drawn.subplots()
    axes.imshow(mosaic(whole.unsqueeze(0), columns=1), interpolation="nearest")
    starts = torch.tensor([0, *(height + 1 + space for space in spaces[:-1])]).cumsum(0)
    axes.set_xticks([])
    axes.set_yticks((starts + height / 2).tolist(), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    drawn.suptitle(title)
    return drawn


@figure(
    section="Samples",
    caption="Given frames, at the left of the white line; beneath what truly followed, means of p(x | z), z ~ p(z | "
    "frames, actions), under the same actions, and under one action again and again.",
    order=3,
)
def rollouts(
    model: Callable[..., Any],
    split: Split,
    actions: Actions | None,
    pictures: Pictures | None,
    n: int = 3,
    seed: int = 0,
) -> Figure:
    """A few contexts: the truth, and rollouts under its actions and under each action at every step.

    Args:
        model: generative program with the argument ``actions``.
        split: clips with their actions; n at even distances are drawn.
        actions: their names.
        pictures: how clips are looked at.
        n: contexts.
        seed: of all draws.

    Returns:
        the figure.

    Raises:
        NotApplicable: if the data are no clips, or the model takes no actions.
    """
    if actions is None or not isinstance(pictures, Clips):
        raise NotApplicable("the data are no clips with actions")
    if not takes(model, ACTIONS):
        raise NotApplicable(f"the model takes no {ACTIONS}")
    batch = pick(split, n, seed)
    chosen = min(MOST_BRANCHES, len(actions.names))
    steps = batch[ACTIONS].shape[1]
    context = contexts_of(model, batch)
    same = [
        roll_out(model, {k: v[i : i + 1] for k, v in context.items()}, own[None], seed=derived_seed(seed, f"own {i}"))
        for i, own in enumerate(batch[ACTIONS].cpu())
    ]
    repeated = torch.arange(chosen)[:, None].expand(chosen, steps)
    others = roll_out(model, context, repeated, seed=seed)  # (A, n, *event)
    made = torch.cat([torch.cat(same, 1), others])
    made = torch.stack([shaped_like_x(each, batch) for each in made])
    shown = torch.cat([batch[X].cpu()[None], made])  # (2 + A, n, T, C, H, W)
    beside = {name: value.cpu() for name, value in batch.items() if name != X}
    wide = pictures.images(shown, beside).movedim(1, 0)  # (n, 2 + A, C, H, W)
    words = [f"truth: {actions.words(own)}" for own in batch[ACTIONS].cpu()]
    names = ["the same actions", *(f"{name} x {steps}" for name in actions.names[:chosen])]
    labels = [label for word in words for label in (word, *names)]
    return sheet(wide.flatten(0, 1), labels, f"{split.name}: given frames | what follows", groups=2 + chosen)


def contexts_of(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a batch the model is given beside the actions."""
    return {name: value for name, value in batch.items() if name not in (X, ACTIONS) and takes(model, name)}


def branches(
    frames: Tensor,
    made: Tensor,
    truth: Tensor | None,
    names: Sequence[str],
    title: str = "Given frames | what follows, and beneath it the truth",
) -> Figure:
    """As in the paper: given frames | rollouts under sequences of actions, with the truth beneath where it is known.

    Args:
        frames: given, ``(N, T0, C, H, W)``.
        made: rollouts, ``(A, N, T, C, H, W)`` (:func:`pyro_vae.evaluation.roll_out`).
        truth: of the same shape, or None.
        names: A, of the sequences of actions.
        title: of the figure.

    Returns:
        the figure.

    Source: van den Oord et al. 2017, arXiv:1711.00937, figure 7.

    Example:
        >>> import pyro_vae, torch
        >>> frames, made = torch.rand(3, 2, 3, 8, 8), torch.rand(2, 3, 4, 3, 8, 8)
        >>> figure = pyro_vae.plots.branches(frames, made, None, ["forward x 4", "right x 4"])
        >>> len(figure.axes[0].get_yticks())
        6
    """
    shown = made if truth is None else torch.stack([made, truth], 1).flatten(0, 1)
    labels = [label for name in names for label in ([name] if truth is None else [name, "truth"])]
    wide = Clips().images(shown, {"frames": frames}).movedim(1, 0)  # (N, rows, C, H, W)
    return sheet(wide.flatten(0, 1), labels * len(frames), title, groups=len(labels))
