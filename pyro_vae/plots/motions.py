"""Figure: what may become of one image, as paths over it, and the groups that these futures fall into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from torch import Tensor

from pyro_vae.data import Motions, Pictures, Split
from pyro_vae.evaluation.generate import draw
from pyro_vae.plots.drawing import Figure
from pyro_vae.plots.images import pick
from pyro_vae.plots.registry import NotApplicable, figure
from pyro_vae.programs.context import X, needed_to_generate
from pyro_vae.programs.program import as_program

SIDE = 1.25  # inches of a panel
NUM_DRAWN = 100  # futures of each image that are grouped
NUM_GROUPS = 4
ROUNDS = 20
SAME = 1e-3  # of their length: points that are less far apart are the same


@figure(section="Samples", caption="Futures of one image, and groups of them with their shares.", order=3)
def futures(
    model: Callable[..., Any],
    split: Split,
    pictures: Pictures | None,
    rows: int = 6,
    draws: int = 4,
    groups: int = NUM_GROUPS,
    num_drawn: int = NUM_DRAWN,
    seed: int = 0,
) -> Figure:
    """Rows: an image with the motions that followed, some that the model draws, means of k-means groups of many.

    What is drawn is the mean of p(x | z, image) for one draw of z. Groups are numbered by their size; their share of
    the draws stands above. Of a model that has one forecast of each image there is one group.

    Args:
        model: a generative program of motions given an image.
        split: the data, of which ``rows`` at even distances are shown.
        pictures: how data become pictures, which has to be :class:`~pyro_vae.data.Motions`.
        rows: images.
        draws: futures shown of each.
        groups: k, of the futures of an image.
        num_drawn: futures that are grouped.
        seed: of the draws.

    Raises:
        NotApplicable: if the data are no motions, or the model is not given their image.
    """
    if not isinstance(pictures, Motions):
        raise NotApplicable("the data are no motions over a picture")
    program = as_program(model)
    batch = pick(split, rows, seed)
    if "image" not in needed_to_generate(program, batch):
        raise NotApplicable("the model is given no image")
    image, n = batch["image"].cpu(), len(batch[X])
    context = {name: value.repeat_interleave(num_drawn, 0) for name, value in batch.items() if name != X}
    drawn = draw(program, n * num_drawn, seed=seed, batch=context).mean.unflatten(0, (n, num_drawn))
    means, shares = k_means(drawn.flatten(2), groups)
    shown = torch.cat([batch[X].cpu().unsqueeze(1), drawn[:, :draws], means.unflatten(2, drawn.shape[2:])], 1)
    columns = shown.shape[1]
    plot = Figure(figsize=(SIDE * columns + 0.2, SIDE * n + 0.6), layout="constrained")
    panels = plot.subplots(n, columns, squeeze=False)
    for i in range(n):
        for j in range(columns):
            axes, share = panels[i, j], shares[i, j - 1 - draws].item() if j > draws else 1.0
            axes.set(xticks=[], yticks=[])
            if not share:  # there are fewer groups
                axes.axis("off")
                continue
            _draw(axes, shown[i, j], image[i], pictures)
            if j > draws:
                axes.set_title(f"{share:.0%}", fontsize="small", pad=2)
    for j, title in enumerate(["data", *[f"future {k + 1}" for k in range(draws)]]):
        panels[0, j].set_title(title, fontsize="small", pad=2)
    plot.suptitle(
        f"{split.name}: futures of an image, and means of the {groups} groups of {num_drawn} of them", fontsize="medium"
    )
    return plot


def _draw(axes: Axes, x: Tensor, image: Tensor, motions: Motions) -> None:
    """Paths over a picture, and an arrow head at the end of each."""
    height, width = image.shape[-2:]
    axes.imshow(image.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1).numpy(), extent=(0, width, height, 0))
    paths, moves = motions.paths(x, image)
    paths = paths[:, :, moves].permute(2, 1, 0)  # (points, T + 1, 2)
    axes.add_collection(LineCollection(list(paths.numpy()), colors="white", linewidths=0.8))
    if len(paths):
        end = paths[:, -1]
        ahead = torch.nn.functional.normalize(end - paths[:, len(paths[0]) // 2], dim=1)
        axes.quiver(
            *end.T.numpy(), *ahead.T.numpy(), angles="xy", scale_units="xy", scale=0.5, color="gold", width=0.015,
            headwidth=4, headlength=4, headaxislength=4, pivot="mid",
        )  # fmt: skip
    axes.set(xlim=(0, width), ylim=(height, 0))


def k_means(points: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Means of groups of points by Lloyd's algorithm, all sets of points at once; the largest group first.

    It starts at the first point, and at those that are farthest from all before.

    Args:
        points: ``(n, points, D)``.
        groups: k.

    Returns:
        means ``(n, k, D)`` and shares of the points ``(n, k)``; 0 where there are fewer different points.
    """
    means = points[:, :1]
    for _ in range(groups - 1):
        distance, far = torch.cdist(points, means).amin(2).max(1)  # (n,)
        found = points[torch.arange(len(points)), far]  # (n, D)
        new = distance > SAME * found.norm(dim=1)
        means = torch.cat([means, torch.where(new[:, None], found, torch.inf).unsqueeze(1)], 1)
    for _ in range(ROUNDS):
        nearest = torch.cdist(points, means).argmin(2)  # (n, points)
        member = torch.nn.functional.one_hot(nearest, groups).to(points)  # (n, points, k)
        count = member.sum(1)
        sums = torch.einsum("npk,npd->nkd", member, points)
        means = torch.where(count.unsqueeze(2) > 0, sums / count.clamp(min=1).unsqueeze(2), means)
    order = count.argsort(dim=1, descending=True, stable=True)  # pyright: ignore[reportPossiblyUnboundVariable]
    means = means.gather(1, order.unsqueeze(2).expand_as(means))
    return means, count.gather(1, order) / points.shape[1]  # pyright: ignore[reportPossiblyUnboundVariable]
