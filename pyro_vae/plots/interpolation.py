"""From one datum to another through latent space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from pyro_vae.data import Split
from pyro_vae.errors import unknown
from pyro_vae.evaluation.encoding import NO_FREE_SITE, free_sites, mean_path
from pyro_vae.evaluation.latent_space import Kind, decode_path, interpolate
from pyro_vae.plots.images import grey_range, grid, in_shape, is_drawable, pick
from pyro_vae.plots.images import kind as kind_of
from pyro_vae.plots.registry import NotApplicable, figure
from pyro_vae.programs.context import X


@figure(section="Traversals", caption="From one datum to another through latent space.", order=1)
def interpolations(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    kind: Kind = "spherical",
    pairs: int = 8,
    steps: int = 9,
    sites: Sequence[str] | None = None,
    seed: int = 0,
) -> Figure:
    """Rows of means of p(x | z), z on the way between the posterior means of two data, which stand at both ends.

    Args:
        model, guide: the programs; context that they need (labels) is that of the datum at the left.
        split: the data, of which ``2 * pairs`` at even distances are drawn.
        kind: ``"linear"`` or ``"spherical"``, see :func:`pyro_vae.evaluation.latent_space.interpolate`.
        pairs: rows.
        steps: points on the way, both ends included.
        sites: latent sites to move; all with real values that are no functions of others, if None. The others are
            drawn from the model, with one noise for a row.
        seed: of draws.

    Returns:
        the figure.

    Raises:
        NotApplicable: if there are no two data, no real-valued latents, or data that are neither images nor
            vectors.
        InputError: for an unknown site or kind, fewer than 2 steps, and a model that cannot be run without data.
    """
    if not is_drawable(split.shape):
        raise NotApplicable(f"data of shape {split.shape} are neither images nor vectors")
    batch = pick(split, 2 * pairs, seed)
    half = len(batch[X]) // 2
    latents = mean_path(model, guide, batch, seed=seed)
    for name in sites or ():
        if name not in latents:
            raise unknown("latent site", name, latents)
    chosen = list(sites) if sites else free_sites(model, guide, split)
    if half < 1 or not chosen:
        raise NotApplicable(NO_FREE_SITE if half else "one datum only")
    path = {name: interpolate(latents[name][:half], latents[name][half : 2 * half], steps, kind) for name in chosen}
    left = {name: value[:half] for name, value in batch.items()}
    decoded = in_shape(decode_path(model, path, seed=seed, batch=left), split.shape, 2)  # (half, steps, *shape)
    x = batch[X].cpu()
    values = torch.cat([x[:half, None], decoded, x[half : 2 * half, None]], 1)
    columns = ["datum", *(f"{i / (steps - 1):.3g}" for i in range(steps)), "datum"]
    moved = "" if sites is None else f" of {', '.join(chosen)}"
    title = f"{split.name}: {kind} interpolation{moved}, {kind_of(decoded)} of p(x | z)"
    return grid(values, title, columns=columns, limits=grey_range(x))
